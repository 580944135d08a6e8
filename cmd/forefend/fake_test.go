package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// clock is the time of every test command.
var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeDaemon answers like a daemon that has seen a little, over a real socket.
type fakeDaemon struct {
	followed chan struct{} // closed when a follower has been told everything and waits for more

	mu       sync.Mutex
	admitted []api.AdmitRequest // guarded by mu
	once     sync.Once
}

var _ api.Orchestrator = (*fakeDaemon)(nil)

// startBroken serves a daemon that answers every question with an error.
func startBroken(t testing.TB) (*says, string) {
	broken := &says{err: errdefs.ErrUnknown}
	return broken, serveFake(t, broken)
}

// startFake serves a fake daemon whose configuration is the returned file.
func startFake(t testing.TB) (*fakeDaemon, string) {
	fake := &fakeDaemon{followed: make(chan struct{})}
	return fake, serveFake(t, fake)
}

func serveFake(t testing.TB, fake api.Orchestrator) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffcli") // short: a socket's path has to fit
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("root = %q\nstate = %q\n", filepath.Join(dir, "root"), dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "forefend.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, fake)
	if _, seen := fake.(*fakeDaemon); seen {
		api.RegisterDecisions(server, fakeDecisions{})
		api.RegisterRules(server, &fakeRules{})
	}
	serveTunnels(t, dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return config
}

func (f *fakeDaemon) Admit(_ context.Context, r api.AdmitRequest) (api.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = append(f.admitted, r)
	d := fakeDecision(r.Facts)
	d.Prediction = workload.Prediction{Unseen: 1}
	return d, nil
}

func (f *fakeDaemon) Await(context.Context, api.AwaitRequest) error { return nil }

func (f *fakeDaemon) Profile(_ context.Context, r api.ProfileRequest) (api.ProfileResponse, error) {
	alice := evidence.Standing{User: "alice", Runs: 212, Denied: 3, Contacts: 1, OOMKilled: 2, Failed: 4, OverAsking: 6.1, Trust: 0.61,
		Why: "212 runs, 1 contacts with listed addresses, 3 runs with refused calls, 2 runs out of memory, 4 failed runs; asks for 6.1 times the memory it uses"}
	web := evidence.Standing{Group: "web", Runs: 300, Trust: 0.9, Why: "300 runs, none at fault"}
	switch {
	case r.Name == "":
		return api.ProfileResponse{Standings: []evidence.Standing{alice, web}}, nil
	case r.Name == "alice" && !r.Group:
		return api.ProfileResponse{Standings: []evidence.Standing{alice}}, nil
	case r.Name == "web" && r.Group:
		return api.ProfileResponse{Standings: []evidence.Standing{web}}, nil
	}
	return api.ProfileResponse{}, nil
}

func (f *fakeDaemon) Update(context.Context, api.UpdateRequest) (api.Decision, error) {
	return api.Decision{}, errdefs.ErrNotImplemented
}

func (f *fakeDaemon) Agent(_ context.Context, r api.AgentRequest) (api.Agent, error) {
	if r.ID.Container != "web-1" {
		return api.Agent{}, fmt.Errorf("container %s does not run: %w", r.ID, errdefs.ErrNotFound)
	}
	var flows, counters json.RawMessage
	if r.Flows {
		flows = json.RawMessage(fmt.Sprintf(`[
			{"id": 1, "context": {"protocol": "http", "destination": "192.0.2.1:80", "user": "admin", "user_proof": "token", "data": "confidential", "host": "pay.example.com", "method": "POST", "path": "/transfer"},
				"rules": ["admin-confidential", "payments"], "rule_version": "13", "tunnel": "wg-eu", "verified": true, "started": %q, "requests": 3, "sent": 2048, "received": 4096},
			{"id": 2, "context": {"protocol": "tls", "destination": "192.0.2.2:443", "user": "web", "user_proof": "workload", "host": "example.com"},
				"tunnel": "direct", "started": %[1]q, "sent": 100, "received": 3145728},
			{"id": 3, "context": {"protocol": "opaque", "destination": "192.0.2.7:5432", "user": "web", "user_proof": "workload", "names": ["db", "db-1"], "host_proof": "answer"},
				"tunnel": "direct", "verified": true, "started": %[1]q, "sent": 1, "received": 2}]`, time.Now().Add(-200*time.Minute).Format(time.RFC3339)))
		counters = json.RawMessage(`{"connections": 12, "open": 2, "requests": 40, "denied": 3, "malformed": {"bare-lf": 1},
			"lookups": {"queries": 500, "denied": 4, "none": 7, "dropped": 90, "forged": 1, "asked": 20480, "answered": 65536, "known": 33}}`)
	}
	var receipts *api.Reconciled
	if r.Verify {
		receipts = fakeReceipts()
	}
	return api.Agent{
		Flows: flows, Counters: counters, Receipts: receipts,
		Status: api.AgentRunning, PID: 4711, UID: 4043178000, Build: "v1", Capabilities: []string{"CAP_NET_ADMIN"}, Features: []string{"sock_diag"},
		Uptime: 90 * time.Second, CPU: 12 * time.Millisecond, Memory: 1 << 20, Files: 9, Restarts: 1, Reason: "it ended",
		Faults:      map[string]int{"replayed": 1},
		Listening:   []api.Socket{{Protocol: "tcp", State: "LISTEN", Local: "0.0.0.0:80"}},
		Connections: []api.Socket{{Protocol: "tcp", State: "ESTABLISHED", Local: "10.0.0.2:80", Remote: "10.0.0.9:4000"}},
	}, nil
}

func (f *fakeDaemon) Adjust(_ context.Context, r api.AdjustRequest) (api.AdjustResponse, error) {
	if r.Action != "" {
		status := api.ResultApplied
		if r.Action == api.ActionThaw {
			status = api.ResultUnchanged
		}
		return api.AdjustResponse{Results: []api.Result{{Lever: "state", Status: status}}}, nil
	}
	return api.AdjustResponse{}, errdefs.ErrNotImplemented
}

func (f *fakeDaemon) Observe(context.Context, api.ObserveRequest) error {
	return errdefs.ErrNotImplemented
}

func (f *fakeDaemon) List(context.Context) (api.ListResponse, error) {
	web := api.Container{
		ID: workload.ID{Namespace: "default", Container: "web-1"}, Run: "r1", Name: "nginx -- nginx -g daemon off;", Image: "docker.io/library/nginx:latest",
		PID: 4711, Mode: "adaptive", Sealed: true, Started: clock.Add(-5 * time.Minute), Prediction: fakePrediction(),
		Usage:  workload.Usage{MemoryPeak: 24 << 20, CPUPeak: 0.31, PIDsPeak: 3},
		Limits: api.Limits{MemorySoft: 64 << 20, PIDs: 32}, By: api.ByDaemon,
		Risk: &evidence.Risk{Score: 31.4, Level: evidence.Medium},
	}
	pod := web
	pod.ID = workload.ID{Namespace: "k8s.io", Container: "3f4e8a2b9c1d3f4e8a2b9c1d3f4e8a2b9c1d3f4e8a2b9c1d3f4e8a2b9c1d0001"}
	pod.Name, pod.Sealed, pod.Limits = "registry.example.com/team/a-service-with-a-long-name -- serve --all", false, api.Limits{Memory: 512 << 20, CPUs: 1.5, PIDs: 4096}
	pod.Prediction = workload.Prediction{Unseen: 1}
	pod.Risk = nil
	pod.Started = clock.Add(-49 * time.Hour)
	hostile := web
	hostile.ID, hostile.Name, hostile.By = workload.ID{Namespace: "other", Container: "evil"}, "\x1b[2J\x1b[31mowned\r\n\u202e界界界界界界界界界界界界界界界界界界界界界界界界界界", api.ByLastKnown
	twice := web
	twice.ID = workload.ID{Namespace: "other", Container: "twin"}
	twin := web
	twin.ID = workload.ID{Namespace: "third", Container: "twin"}
	return api.ListResponse{Containers: []api.Container{twin, twice, hostile, pod, web}}, nil
}

func (f *fakeDaemon) Explain(_ context.Context, r api.ExplainRequest) (api.Decision, error) {
	switch r.ID.Container {
	case "web-1", "evil", "gone":
		return fakeDecision(workload.Facts{
			ID: r.ID, Run: "r1", Args: []string{"nginx", "-g", "daemon off;"}, Group: r.ID.Namespace,
			Image: workload.Image{Name: "docker.io/library/nginx:latest", Repository: "docker.io/library/nginx", Digest: "sha256:0123456789abcdef0123456789abcdef"},
		}), nil
	}
	return api.Decision{}, fmt.Errorf("container %s: %w", r.ID, errdefs.ErrNotFound)
}

func fakePrediction() workload.Prediction {
	return workload.Prediction{
		Runs: 5, Level: "image+command", Unseen: 0.012, Sealed: true, RootfsWrites: workload.No,
		Memory: workload.Bound{Value: 48 << 20, Coverage: 0.99, Basis: "5 runs image+command, pooled scores of 812 runs"},
		CPU:    workload.Bound{Value: 0.52, Coverage: 0.99, Basis: "5 runs image+command, pooled scores of 812 runs"},
		PIDs:   workload.Bound{Value: 8, Coverage: 0.99, Basis: "5 runs image+command"},
		Seen: map[string]int{"accept4": 5, "bind": 5, "connect": 1, "execve": 5, "listen": 5, "openat": 5, "setgid": 5, "setgroups": 5,
			"setuid": 5, "socket": 5, "socketpair": 4},
		Destinations: []string{"tcp/10.0.0.2:5432"},
	}
}

// fakeDecision is made by the real merge.
func fakeDecision(facts workload.Facts) api.Decision {
	claim := func(k policy.Key, v policy.Value, a policy.Author, source, reason string) policy.Claim {
		return policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: a, Source: source, Reason: reason}}
	}
	history := "history image+command, 5 runs"
	claims := []policy.Claim{
		claim(policy.KeyMode, policy.ModeAdaptive, policy.Default, "forefend", ""),
		claim(policy.KeySealed, policy.Tight, policy.Prediction, history, "1.2 % chance of an unseen call is under the bound of 20 %"),
		claim(policy.KeyMemory, 128<<20, policy.Request, "spec", ""),
		claim(policy.KeyMemorySoft, 64<<20, policy.Prediction, history, "48 MiB predicted, plus headroom of 16 MiB"),
		claim(policy.KeyPIDs, 4096, policy.Default, "config.toml [defaults]", ""),
		claim(policy.KeyPIDs, 32, policy.Prediction, history, "8 predicted, times four"),
		claim(policy.KeyNetwork, policy.Loose, policy.Request, "spec", "it has a network namespace of its own"),
		claim(policy.KeyNoNewPrivileges, policy.Tight, policy.Request, "spec", ""),
	}
	for _, name := range []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"} {
		claims = append(claims, claim(policy.KeyCapabilities.Member(name), policy.Loose, policy.Request, "spec", ""))
	}
	for i := range 40 {
		claims = append(claims, claim(policy.KeySyscalls.Member(fmt.Sprintf("benign_call_%02d", i)), policy.SyscallNative, policy.Default, "forefend", "benign and hot"))
	}
	for _, name := range []string{"ptrace", "mount", "bpf"} {
		claims = append(claims, claim(policy.KeySyscalls.Member(name), policy.SyscallDeny, policy.Prediction, history, "dangerous, and no run ever made it"))
		claims = append(claims, claim(policy.KeySyscalls.Member(name), policy.SyscallNative, policy.Request, "spec seccomp", "the requested profile allows it"))
	}
	ceiling := policy.Value(96 << 20)
	return api.Decision{
		Version: 1, Time: clock.Add(-5 * time.Minute), Facts: facts, Availability: api.ByDaemon, Profile: "default", Revision: 1,
		Effective: policy.Merge(policy.Input{Claims: claims, Profile: "default", Guards: []policy.Guard{
			{Key: policy.KeyMemory, Ceiling: &ceiling, Source: "config.toml [guardrails]"},
		}}),
		Prediction: fakePrediction(),
		Sources: []api.Source{
			{Name: "history", Status: "ok", Took: 180 * time.Microsecond},
			{Name: "executable", Status: "late", Took: 50 * time.Millisecond, Reason: "hashing /usr/sbin/nginx was not done within the budget; the next run will have it"},
		},
		Notes:   []string{"The kernel has cgroup v1: the soft memory limit is a reclaim hint, and no limit that stops the container from growing."},
		Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
		Table:   []byte("binary"),
		Risk: &evidence.Risk{Score: 31.4, Level: evidence.Medium, Factors: []evidence.Factor{
			{Name: evidence.FactorVulnerabilities, Severity: 0.8, Likelihood: 0.3, Share: 0.75, Why: "CVE-2026-0001 in libssl3, severity 8.1"},
			{Name: evidence.FactorPrivileges, Severity: 0.3, Likelihood: 0.2, Share: 0.25, Why: "uid 0"},
		}},
		Scan: &api.Scan{
			Entry: "/usr/sbin/nginx", Syscalls: []string{"accept4", "bind", "epoll_wait", "listen", "openat", "read", "socket", "write", "writev", "recvfrom"}, Programs: 14,
			Unknown: []evidence.Unknown{{Where: "/usr/lib/x86_64-linux-gnu/libperl.so.5.36+0x1f2", Why: "a system call whose number is not known"}}, Unfollowed: 1,
			Capabilities: []evidence.Capability{{Name: "NET_BIND_SERVICE", Why: "listens on 80"}}, Ports: []evidence.Port{{Number: 80, Protocol: "tcp", Why: "listen in nginx.conf"}},
			Memory:   evidence.MemoryPrior{Runtime: "native", Typical: 12 << 20, High: 64 << 20, Basis: "servers of this kind"},
			Sinks:    []evidence.Sink{{Kind: "oversized", Resource: "memory", Severity: 0.4, Where: "command", Why: "asks for more workers than the node has processors"}},
			Packages: 120, Vulnerable: 3, Vulnerabilities: []evidence.Vulnerability{{ID: "CVE-2026-0001", Package: "libssl3", Version: "3.0.1", Fixed: "3.0.2",
				Severity: 8.1, Exploited: 0.3, Reachable: true}},
		},
		Standing: &evidence.Standing{User: "alice", Group: "web", Runs: 212, Trust: 0.61, Why: "212 runs, 3 runs with refused calls"},
		Load: &evidence.Load{Cores: 8, CPU: 0.91, Memory: 0.4, PressureCPU: 0.1, PressureMemory: -1, PressureIO: -1,
			Tight: map[string]string{"cpu": "91 % of 8 processors in use over the last minute"}},
		Findings: evidence.Findings{
			Contacts:   []evidence.Contact{{Destination: "tcp/192.0.2.66:443", Indicator: "192.0.2.0/24", Feed: "drop", Confidence: 0.9}},
			Techniques: []evidence.Technique{{ID: "T1611", Name: "Escape to Host", Confidence: 0.5, Severity: 0.9, Why: "mount was refused"}},
			Anomalies:  []evidence.Anomaly{{Kind: evidence.AnomalyPrograms, Time: clock, Score: 5, Threshold: 3, Why: "executed /tmp/x: no earlier run did"}},
			Forecasts: []evidence.Forecast{{Resource: "memory", Now: 50 << 20, Window: time.Hour, Bound: 80 << 20, Coverage: 0.99, Limit: 96 << 20,
				Probability: 0.62, Horizon: 10 * time.Minute, TimeToLimit: 7 * time.Minute}},
		},
	}
}

func (f *fakeDaemon) History(_ context.Context, r api.HistoryRequest) (api.HistoryResponse, error) {
	nginx := api.Workload{Key: workload.Key{Level: workload.LevelDigestCommand, Value: "a1b2c3d4e5f60718"}, Name: "nginx -- nginx -g daemon off;",
		Runs: 5, Last: clock.Add(-3 * time.Hour), Prediction: fakePrediction(), Sealed: true}
	redis := nginx
	redis.Key.Value, redis.Name, redis.Runs, redis.Sealed, redis.Prediction = "beefbeefbeefbeef", "redis -- redis-server --save  --dir /data", 1, false, workload.Prediction{Unseen: 0.5}
	var resp api.HistoryResponse
	for _, w := range []api.Workload{nginx, redis} {
		if strings.Contains(w.Name, r.Workload) || strings.HasPrefix(w.Key.Value, r.Workload) {
			resp.Workloads = append(resp.Workloads, w)
		}
	}
	if len(resp.Workloads) == 1 {
		started := clock.Add(-4 * time.Hour)
		run := workload.Observation{ID: workload.ID{Namespace: "default", Container: "web-1"}, Run: "r1", Started: started, Watched: true,
			Keys: []workload.Key{nginx.Key}, Name: nginx.Name,
			Usage:    workload.Usage{MemoryPeak: 24 << 20, CPUPeak: 0.31, PIDsPeak: 3},
			Syscalls: map[string]uint64{"execve": 1, "socket": 3}}
		ended := run
		ended.Final, ended.Ended, ended.Exit.Status, ended.Denied = true, started.Add(90*time.Second), 137, map[string]uint64{"mount": 2}
		ended.Usage.OOMKills = 1
		lost := ended
		lost.Exit, lost.Watched, lost.Ended = workload.Exit{Status: 255, Lost: true}, false, started.Add(120*time.Millisecond)
		resp.Runs = []workload.Observation{run, ended, lost}
	} else {
		resp.SetAside = []string{"history 4711: checksum does not match; kept in /var/lib/forefend/store/damaged/4711.json for whoever wants to look at it"}
	}
	return resp, nil
}

func (f *fakeDaemon) stored() []api.Event {
	web := workload.ID{Namespace: "default", Container: "web-1"}
	event := func(seq uint64, ago time.Duration, id workload.ID, kind, message string) api.Event {
		return api.Event{Seq: seq, Time: clock.Add(-ago), ID: id, Kind: kind, Message: message}
	}
	events := []api.Event{
		event(11, 10*time.Minute, web, api.EventAdmitted, "adaptive, not sealed, 0 earlier runs"),
		event(12, 8*time.Minute, web, api.EventLearned, "epoll_pwait2: no earlier run made it; benign, allowed from now on"),
		event(13, 2*time.Minute, web, api.EventDenied, "mount: dangerous and never seen in 5 runs: EPERM (pid 4712, /usr/sbin/nginx). Allow it with the annotation forefend.dev/syscalls.allow=mount if the profile grants that"),
		event(14, time.Minute, workload.ID{}, api.EventDegraded, "no SYNC_WAKE_UP"),
		event(15, 30*time.Second, workload.ID{Namespace: "k8s.io", Container: "a-pod-with-quite-a-long-name"}, api.EventExited, "status 0\x1b[1mbold"),
	}
	events[2].Fields = map[string]string{"syscall": "mount", "errno": "EPERM"}
	return events
}

func (f *fakeDaemon) Events(ctx context.Context, r api.EventsRequest) (api.EventsResponse, error) {
	var matching []api.Event
	for _, e := range f.stored() {
		if e.Seq > r.After && (r.ID == workload.ID{} || e.ID == r.ID) {
			matching = append(matching, e)
		}
	}
	resp := api.EventsResponse{Events: matching, Next: max(r.After, 15)}
	switch {
	case r.Tail:
		resp.Events = matching[max(0, len(matching)-r.Limit):]
	case r.After == 0:
		resp.Lost = 10
	case r.Wait > 0 && r.After == 15: // first question of a follower
		resp.Events, resp.Next = []api.Event{{Seq: 16, Time: clock, ID: workload.ID{Namespace: "default", Container: "web-1"}, Kind: api.EventExited, Message: "status 0"}}, 16
	case r.Wait > 0:
		f.once.Do(func() { close(f.followed) })
		<-ctx.Done()
		return api.EventsResponse{}, ctx.Err()
	}
	return resp, nil
}

func (f *fakeDaemon) Status(context.Context) (api.Status, error) {
	return api.Status{Version: "v0.1.0", API: 1, PID: 4242, Started: clock.Add(-3 * time.Hour), Containers: 5, Workloads: 2, Runs: 6,
		RSS: 41 << 20, Load: 12 * time.Millisecond, Degraded: []string{"threat feeds: none configured"}, SetAside: []string{"history 4711"}}, nil
}

// fakeReceipts has a connection that agrees and one that does not.
func fakeReceipts() *api.Reconciled {
	began := time.Now().Add(-200 * time.Minute)
	one := flow.Verdict{Local: netip.MustParseAddrPort("10.8.0.2:4000"), Remote: netip.MustParseAddrPort("192.0.2.1:80"), Tunnel: "wg-eu", Standing: flow.Agrees,
		Account: &flow.Account{Began: began, Sent: 2048, Received: 4096}, Receipt: &flow.Receipt{Serial: 3<<32 + 17, Age: 2 * time.Second, Bytes: 2400, BytesBack: 4500}}
	two := flow.Verdict{Local: netip.MustParseAddrPort("10.8.0.2:4001"), Remote: netip.MustParseAddrPort("192.0.2.9:443"), Tunnel: "wg-eu", Standing: flow.Astray,
		Why: "the gateway does not know it: it went elsewhere", Ended: true, Cut: true, Account: &flow.Account{Began: began, Sent: 100, Received: 50}}
	return &api.Reconciled{Owed: true, Verdicts: []flow.Verdict{one, two}, Without: []string{"direct"}, Left: 2, Trouble: []string{"tunnel wg-us: gateway https://us:7443 cannot be asked"}}
}
