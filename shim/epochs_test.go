package shim

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// decisionPoint is a daemon with rules, whose epoch the test sets.
type decisionPoint struct {
	mu      sync.Mutex
	epoch   uint64        // guarded by mu
	risk    int           // of the container "c"; 0: rules do not ask; guarded by mu
	changed chan struct{} // guarded by mu
}

func (d *decisionPoint) turn(risk int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.risk = risk
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *decisionPoint) set(epoch uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch = epoch
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *decisionPoint) Decide(context.Context, api.DecideRequest) (flow.Decision, error) {
	return flow.Decision{}, nil
}

func (d *decisionPoint) Epoch(ctx context.Context, r api.EpochRequest) (api.EpochResponse, error) {
	for {
		d.mu.Lock()
		epoch, risk, changed := d.epoch, d.risk, d.changed
		d.mu.Unlock()
		if known, asked := r.Risks["c"]; risk != 0 && asked && known != risk {
			return api.EpochResponse{Epoch: epoch, Grace: 500 * time.Millisecond, Risks: map[string]int{"c": risk}}, nil
		}
		if epoch != r.After {
			return api.EpochResponse{Epoch: epoch, Grace: 500 * time.Millisecond}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.EpochResponse{}, ctx.Err()
		}
	}
}

// serve serves d on a socket until stop is called.
func (d *decisionPoint) serve(t *testing.T, socket string) (stop func()) {
	return decisionsOf(t, d, socket)
}

// decisionsOf serves any.
func decisionsOf(t *testing.T, d api.Decisions, socket string) (stop func()) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterDecisions(server, d)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conns := &accepted{Listener: l}
	served := make(chan struct{})
	go func() { _ = server.Serve(context.Background(), conns); close(served) }()
	return func() { _ = server.Close(); <-served; conns.end() }
}

// accepted ends its connections as those of a process that is killed end: a ttrpc server that is closed lets calls go on.
type accepted struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func (a *accepted) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		a.mu.Lock()
		a.conns = append(a.conns, c)
		a.mu.Unlock()
	}
	return c, err
}

func (a *accepted) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
}

// remembering is an agent that tells what it was told.
type remembering chan uint64

func (remembering) State(context.Context) (api.Agent, error) { return api.Agent{}, nil }
func (remembering) Close()                                   {}
func (remembering) Flows(context.Context) (flows, counters json.RawMessage, err error) {
	return nil, nil, nil
}
func (r remembering) Forget(_ context.Context, epoch uint64) error { r <- epoch; return nil }

// TestEpochs: agents learn of each epoch; once the daemon has been away for its grace they forget; when it is back, whichever it is, its
// epoch holds.
func TestEpochs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := &decisionPoint{epoch: 100, changed: make(chan struct{})}
	stop := d.serve(t, socket)
	cfg := Config{Socket: socket}
	s := &Service{cfg: cfg, link: newLink(cfg)}
	e := newEpochs(s)
	defer s.link.close()
	defer e.close()
	agent := make(remembering, 10)
	e.join("c", agent)
	e.join("stranger", nil)
	told := func(want uint64) {
		t.Helper()
		select {
		case got := <-agent:
			if got != want {
				t.Fatalf("told of epoch %d, want %d", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("not told of epoch %d", want)
		}
	}
	told(100)
	began := time.Now()
	d.set(200)
	told(200)
	t.Logf("an epoch reached the agent within %s", time.Since(began))
	began = time.Now()
	d.turn(70)
	told(200) // of the same epoch: what was decided by another risk is forgotten
	t.Logf("another risk reached the agent within %s", time.Since(began))
	if !e.follows("c") || e.follows("stranger") {
		t.Error("it is not known whose risk the daemon tells of")
	}
	began = time.Now() // it is away before stop returns
	stop()
	told(201)
	if away := time.Since(began); away < 500*time.Millisecond {
		t.Errorf("it forgot after %s, within the grace", away)
	}
	stop = d.serve(t, socket)
	told(200)
	e.leave("c")
	d.set(300)
	stop()
	select {
	case got := <-agent:
		t.Errorf("an agent that is gone was told of %d", got)
	default:
	}
}
