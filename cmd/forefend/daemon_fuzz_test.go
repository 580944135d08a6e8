package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"forefend.dev/forefend/cmd/forefend/meter"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/orchestrator/identity"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// within runs a daemon in this process: everything but its priority and its cgroup. It returns its configuration.
func within(t testing.TB) *config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffz")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("root = %q\nstate = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{cfg: cfg, started: time.Now(), door: newDoor()}
	ctx, stop := context.WithCancel(context.Background())
	if d.lock, err = takeLock(cfg); err != nil {
		t.Fatal(err)
	}
	d.meter = meter.New(version, d.standing)
	if err := d.openHistory(ctx); err != nil {
		t.Fatal(err)
	}
	d.openSources(ctx)
	d.identity = identity.NewResolver(d.follower())
	d.service = orchestrator.New(d.orchestration(), bookHistory{d.book}, d.journal, d.identity, d.sources(), nil)
	if d.listener, err = listen(cfg.Socket()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return cfg
}

// honest is what a shim asks and reports; n tells containers apart.
func honest(n int) (api.AdmitRequest, workload.Observation) {
	name := fmt.Sprint("c", n)
	id := workload.ID{Namespace: "test", Container: name}
	spec := specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}, Linux: &specs.Linux{}}
	spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	facts := workload.Facts{ID: id, Run: fmt.Sprint(name, "-", time.Now().UnixNano()), User: "u", Group: "test", Args: []string{"server"}}
	now := time.Now()
	return api.AdmitRequest{Version: api.Version, Facts: facts, Spec: spec, ListenerPath: "/run/x"}, workload.Observation{
		Version: workload.ObservationVersion, ID: id, Run: facts.Run, Name: "test", Keys: facts.Keys(), Group: "test",
		Started: now, Ended: now.Add(time.Second), Final: true, Watched: true,
		Usage: workload.Usage{MemoryPeak: 1 << 20, PIDsPeak: 2, Samples: 2}, Syscalls: map[string]uint64{"execve": 1, "socket": 2},
	}
}

// FuzzDaemon sends a daemon whatever JSON, bare or laid over what an honest shim sends, to each of its methods. It
// refuses with a reason or answers, and goes on serving an honest shim.
func FuzzDaemon(f *testing.F) {
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(io.Discard)
	f.Cleanup(func() { log.L.Logger.SetOutput(out) })
	methods := []string{"Admit", "Update", "Observe", "Explain", "History", "Events", "List", "Status", "Nothing"}
	for m := range methods {
		f.Add(uint8(m), true, []byte(`{}`))
		f.Add(uint8(m), false, []byte(`{"version":99}`))
	}
	for _, patch := range []string{
		`{"facts":{"annotations":{"forefend.dev/memory":"64Mi","forefend.dev/syscalls.allow":"ptrace"},"args":[],"rootfs":["/proc/self/root","/dev"],"containerd":"/nonexistent"}}`,
		`{"facts":{"id":{"namespace":"..","container":"x/../.."},"run":"../../x"}}`, `{"dry_run":true,"spec":{"linux":null,"process":null}}`,
		`{"spec":{"linux":{"seccomp":{"defaultAction":"x"}}}}`,
	} {
		f.Add(uint8(0), true, []byte(patch))
	}
	f.Add(uint8(1), true, []byte(`{"resources":{"memory":{"limit":1},"unified":{"memory.max":"max"}},"refused":true}`))
	f.Add(uint8(2), true, []byte(`{"events":[{"kind":"\u0000","message":"x","fields":{"a":"b"}}],"lost":18446744073709551615}`))
	f.Add(uint8(2), true, []byte(`{"observations":[{"version":1,"run":"r","id":{"namespace":"a","container":"b"},"keys":[{"level":6,"value":"node"}],"started":"9999-12-31T23:59:59Z","usage":{"memory_peak":-9223372036854775808,"cpu_peak":1e308,"pids_peak":-1},"syscalls":{"":18446744073709551615}}]}`))
	f.Add(uint8(2), false, []byte(`{"observations":[null,{}],"events":[null]}`))
	f.Add(uint8(4), false, []byte(`{"workload":"server","limit":-5}`))
	f.Add(uint8(4), false, []byte(`{"limit":9223372036854775807}`))
	f.Add(uint8(5), false, []byte(`{"after":18446744073709551615,"limit":9223372036854775807,"tail":true}`))
	f.Add(uint8(5), false, []byte(`{"tail":true,"limit":1,"id":{"namespace":"test","container":"c1"}}`))
	cfg := within(f)
	raw := dialRaw(f, cfg.Socket())
	c, err := api.Dial(context.Background(), cfg.Socket())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close() })
	n := 0
	f.Fuzz(func(t *testing.T, method uint8, over bool, patch []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		name := methods[int(method)%len(methods)]
		body, ok := patch, true
		if over {
			body, ok = laidOver(name, n, patch)
		}
		var waits struct{ Wait time.Duration }
		if !ok || len(body) > 1<<20 || json.Unmarshal(body, &waits) == nil && waits.Wait > 0 {
			return
		}
		var out wrapperspb.BytesValue
		err := raw.Call(ctx, api.ServiceName, name, wrapperspb.Bytes(body), &out)
		switch s, ok := grpcstatus.FromError(err); {
		case !ok:
			t.Fatalf("%s of %q: %v", name, body, err)
		case err == nil:
			if !json.Valid(out.Value) {
				t.Errorf("%s answers %q", name, out.Value)
			}
		default:
			switch s.Code() {
			case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.ResourceExhausted, codes.Unimplemented:
			default:
				t.Errorf("%s of %q: %v", name, body, err)
			}
		}
		n++
		req, o := honest(n % 50)
		d, err := c.Admit(ctx, req)
		if err != nil || d.Facts.Run != req.Facts.Run {
			t.Fatalf("an honest shim is answered with %v about %s", err, d.Facts.Run)
		}
		if err := c.Observe(ctx, api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{o}}); err != nil {
			t.Fatal(err)
		}
		if list, err := c.List(ctx); err != nil {
			t.Fatal(list, err)
		}
	})
}

func dialRaw(t testing.TB, socket string) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// laidOver is what an honest shim sends, with patch decoded over it.
func laidOver(method string, n int, patch []byte) (body []byte, ok bool) {
	admit, o := honest(n % 50)
	var v any
	switch method {
	case "Admit":
		v = &admit
	case "Update":
		v = &api.UpdateRequest{Version: api.Version, ID: admit.Facts.ID, Before: api.Decision{Version: api.Version, Facts: admit.Facts}}
	case "Observe":
		v = &map[string]any{"version": api.Version, "observations": []any{o}}
	case "Explain":
		v = &api.ExplainRequest{ID: admit.Facts.ID}
	default:
		return patch, true
	}
	if json.Unmarshal(patch, v) != nil {
		return nil, false
	}
	body, err := json.Marshal(v)
	return body, err == nil
}
