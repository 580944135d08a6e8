package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
)

// fakeShim is the shim of a container, and its record: a change is in force when it has been asked for.
type fakeShim struct {
	t      testing.TB
	mu     sync.Mutex
	dir    record.Dir         // guarded by mu
	r      record.Record      // guarded by mu
	asked  []api.AdaptRequest // guarded by mu
	behind func()             // what happens before an answer; nil: nothing
	fail   error              // instead of an answer
}

func (f *fakeShim) Adapt(_ context.Context, req api.AdaptRequest) (resp api.AdaptResponse, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, req)
	before := *f.r.Decision
	if req.Before != before.Revision || !req.Since.Equal(before.Changed()) {
		return api.AdaptResponse{Stale: true, Decision: before}, nil
	}
	after := req.After
	if req.Brief {
		after = admit.Unbrief(before, after, req.Only)
	}
	results := []api.Result{{Lever: "network", Status: api.ResultApplied}}
	f.putLocked(admit.Settled(before, withoutCode(after), results))
	inForce := *f.r.Decision
	if f.behind != nil {
		f.behind()
	}
	if f.fail != nil {
		return resp, f.fail
	}
	if req.Brief {
		return api.AdaptResponse{AsAsked: true, Results: results}, nil
	}
	return api.AdaptResponse{Decision: inForce, Results: results}, nil
}

func (f *fakeShim) Agent(context.Context, api.AgentRequest) (api.Agent, error) {
	return api.Agent{}, errdefs.ErrNotImplemented
}

// putLocked puts a decision in force. f.mu is held.
func (f *fakeShim) putLocked(d api.Decision) {
	f.r.Decision = &d
	if err := f.dir.Write(f.r); err != nil {
		f.t.Error(err)
	}
}

// last is what was asked for last, and what is in force.
func (f *fakeShim) last() (api.AdaptRequest, api.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[len(f.asked)-1], *f.r.Decision
}

// shimOf admits a container and runs its shim.
func (n *node) shimOf(t testing.TB, name string, brief bool) *fakeShim {
	t.Helper()
	d := withoutCode(n.admit(t, name))
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	start, err := record.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeShim{t: t, dir: n.cfg.Containers, r: record.Record{
		ID: d.Facts.ID, Run: d.Facts.Run, Facts: d.Facts, ShimPID: os.Getpid(), ShimStart: start, ShimSocket: listener.Addr().String(), NotifySocket: "/run/n", Brief: brief,
	}}
	f.putLocked(d)
	if err := f.dir.WriteRequest(d.Facts.ID, record.Request{Run: d.Facts.Run, Spec: request(t, name).Spec}); err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterAdapter(server, f)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(context.Background(), listener) })
	t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
	return f
}

func (n *node) set(t testing.TB, f *fakeShim, key, value string) api.AdjustResponse {
	t.Helper()
	resp, err := n.Adjust(t.Context(), api.AdjustRequest{
		Version: api.Version, ID: f.r.ID, Set: map[string]string{key: value}, Author: policy.Operator, Source: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// ticking gives each decision its own time, as on a node.
func ticking(c *Config) {
	now := clock
	c.Now = func() time.Time { now = now.Add(time.Second); return now }
}

// A shim that understands it is told what differs, and answers with no more; one of an older release is told, and tells, everything. Whoever asks
// gets the same decision, which is the one in force.
func TestAdjustIsBrief(t *testing.T) {
	for _, brief := range []bool{false, true} {
		n := newNode(t, ticking)
		f := n.shimOf(t, "web-1", brief)
		n.set(t, f, "syscalls.deny", "mkdir")
		resp := n.set(t, f, "network", "off")
		asked, is := f.last()
		if asked.Brief != brief || brief != (asked.After.Facts.Run == "") || brief && !reflect.DeepEqual(asked.Only, []policy.Dimension{policy.Network}) {
			t.Errorf("brief %v: asked for %+v", brief, asked)
		}
		if resp.Decision.Revision != 3 || len(resp.Decision.Changes) != 2 || !sameDecision(t, resp.Decision, is) || !sameDecision(t, n.journal.decisions[f.r.ID], is) {
			t.Errorf("brief %v: answered %+v, in force is %+v", brief, resp.Decision, is)
		}
		if is.Effective.Value(policy.KeyNetwork, policy.Loose) != policy.Tight || is.Effective.Value("syscalls/mkdir", 9) != policy.SyscallDeny {
			t.Errorf("brief %v: %+v", brief, is.Effective)
		}
	}
}

// sameDecision compares what two decisions are on disk.
func sameDecision(t *testing.T, a, b api.Decision) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// A change goes on from what the one before left, and reads again only where somebody else has changed something: also where that came to the
// same number.
func TestAdjustReadsOnce(t *testing.T) {
	n := newNode(t, ticking)
	f := n.shimOf(t, "web-1", true)
	n.set(t, f, "memory", "64Mi")
	path, err := n.cfg.Containers.Path(f.r.ID)
	if err != nil {
		t.Fatal(err)
	}
	hidden := path + "~"
	if err := os.Rename(path, hidden); err != nil {
		t.Fatal(err)
	}
	f.dir = record.Dir(t.TempDir())
	if d := n.set(t, f, "network", "off").Decision; d.Revision != 3 {
		t.Errorf("revision %d", d.Revision)
	}
	f.dir = n.cfg.Containers
	if err := os.Rename(hidden, path); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	other := *f.r.Decision
	other.Changes = append(other.Changes[:len(other.Changes)-1:len(other.Changes)-1], api.Change{Revision: 3, Time: clock, Author: policy.Request})
	limit := int64(32 << 20)
	f.r.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}} // by a client of containerd
	f.putLocked(other)
	f.mu.Unlock()
	reset := api.AdjustRequest{Version: api.Version, ID: f.r.ID, Reset: true, Author: policy.Operator}
	resp, err := n.Adjust(t.Context(), reset)
	if d := resp.Decision; err != nil || d.Revision != 4 || d.Changes[1].Author != policy.Request || d.Effective.Value(policy.KeyMemory, 0) != 32<<20 {
		t.Errorf("revision %d, %+v, %v", d.Revision, d.Changes, err)
	}
	f.mu.Lock()
	f.r.ShimStart++
	f.putLocked(*f.r.Decision)
	f.mu.Unlock()
	n.restart()
	if _, err := n.Adjust(t.Context(), reset); !errdefs.IsNotFound(err) {
		t.Errorf("of a container that has ended: %v", err)
	}
}

// A caller that wants no more is told the revision in force, and nothing of the policy.
func TestAdjustAnswersBriefly(t *testing.T) {
	n := newNode(t, ticking)
	f := n.shimOf(t, "web-1", true)
	resp, err := n.Adjust(t.Context(), api.AdjustRequest{
		Version: api.Version, ID: f.r.ID, Set: map[string]string{"network": "off"}, Author: policy.Operator, Source: "test", Brief: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := resp.Decision; d.Revision != 2 || d.Facts.ID != f.r.ID || len(d.Effective.Fields)+len(d.Changes) > 0 || len(resp.Results) != 1 {
		t.Errorf("%+v", resp)
	}
}

// BenchmarkAdjust is one change of a network by way of daemon and shim, as `forefend set` makes it: the CPU of all three but for the kernel's part.
func BenchmarkAdjust(b *testing.B) {
	n := newNode(b, ticking)
	n.Service = New(n.cfg, n.history, marshalling{n.journal}, identify(named), n.history, nil)
	f := n.shimOf(b, "web-1", true)
	client := serve(b, n.Service)
	before := cpu(b)
	for i := 0; b.Loop(); i++ {
		req := api.AdjustRequest{
			Version: api.Version, ID: f.r.ID, Set: map[string]string{"network": []string{"off", "on"}[i%2]}, Author: policy.Operator, Source: "bench", Brief: true,
		}
		if _, err := client.Adjust(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}
