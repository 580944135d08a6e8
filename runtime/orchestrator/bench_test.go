package orchestrator

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// marshalling is a Journal that pays what the daemon's journal pays on the caller's time.
type marshalling struct{ *fakeJournal }

func (j marshalling) AppendDecision(d api.Decision) {
	if _, err := json.Marshal(d); err != nil {
		panic(err)
	}
}

func (j marshalling) AppendEvent(e api.Event) {
	if _, err := json.Marshal(e); err != nil {
		panic(err)
	}
}

// BenchmarkAdmit is one Admit over the unix socket, as a shim makes it: the CPU of both sides.
func BenchmarkAdmit(b *testing.B) {
	n := newNode(b, nil)
	n.Service = New(n.cfg, n.history, marshalling{n.journal}, identify(named), n.history, nil)
	client := serve(b, n.Service)
	req := request(b, "web-1")
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		if _, err := client.Admit(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		drain(n.Service)
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkObserve is the report of one run's end, with a server's calls.
func BenchmarkObserve(b *testing.B) {
	n := newNode(b, nil)
	n.Service = New(n.cfg, n.history, marshalling{n.journal}, identify(named), n.history, nil)
	client := serve(b, n.Service)
	o := observation("web-1", true)
	o.Syscalls, o.Keys = map[string]uint64{}, workload.Facts{Args: []string{"x"}}.Keys()
	for _, name := range []string{"execve", "socket", "bind", "listen", "connect", "setuid", "unlink", "rename", "chmod", "prctl"} {
		o.Syscalls[name] = 12
	}
	req := api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{o}}
	before := cpu(b)
	for b.Loop() {
		n.history.kept = n.history.kept[:0]
		if err := client.Observe(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// drain empties the queue of policies to seal, which Run would.
func drain(s *Service) {
	for {
		select {
		case <-s.seal:
		default:
			return
		}
	}
}

// serve puts o behind a unix socket and returns a client of it.
func serve(t testing.TB, o api.Orchestrator) *api.Client {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	client, err := api.Dial(t.Context(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-done
	})
	return client
}

// cpu is the CPU time this process has used, garbage collection included.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
