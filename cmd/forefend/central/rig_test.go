package central

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/certificates"
)

// desk is a Decider that says who asked, and can be slow or change its rules.
type desk struct {
	mu      sync.Mutex
	epoch   uint64
	changed chan struct{}
	slow    chan struct{}  // nil: answers at once, else once it is closed
	asked   map[string]int // questions by node
	answer  func(*flow.Decision, *api.Question)
}

func newDesk() *desk {
	return &desk{epoch: 1000, changed: make(chan struct{}), asked: make(map[string]int)}
}

func (d *desk) Decide(node string, q *api.Question) flow.Decision {
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	if slow != nil {
		<-slow
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[node]++
	r := flow.Decision{Version: flow.Version, Epoch: d.epoch, Reason: node + " " + q.Context.Host, Depends: []flow.Field{flow.FieldHost}}
	if d.answer != nil {
		d.answer(&r, q)
	}
	return r
}

func (d *desk) Await(ctx context.Context, after uint64) (uint64, bool) {
	for {
		d.mu.Lock()
		epoch, changed := d.epoch, d.changed
		d.mu.Unlock()
		if epoch != after {
			return epoch, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return epoch, true
		}
	}
}

// turn has other rules.
func (d *desk) turn() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch++
	close(d.changed)
	d.changed = make(chan struct{})
	return d.epoch
}

func (d *desk) total() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, of := range d.asked {
		n += of
	}
	return n
}

// rig is a central daemon's server and what a node needs to reach it.
type rig struct {
	t       testing.TB
	ca      *certificates.Authority
	desk    *desk
	server  *Server
	address string
	stop    func()
}

func newRig(t testing.TB, names []string, rate int) *rig {
	t.Helper()
	r := &rig{t: t, ca: certificates.New(t), desk: newDesk()}
	cert, key := r.ca.Issue(t, "pdp.test")
	r.server = NewServer(r.desk, &credentials.Files{CA: r.ca.File, Cert: cert, Key: key}, names, rate)
	r.serve("127.0.0.2:0") // of which nobody else takes a port while the daemon is away
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) serve(address string) {
	r.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.server.Serve(ctx, l); err != nil {
			r.t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-done }
}

func (r *rig) dialer(name string) func(context.Context) (net.Conn, error) {
	cert, key := r.ca.Issue(r.t, name)
	return (&credentials.Files{CA: r.ca.File, Cert: cert, Key: key}).Dialer(r.address, "pdp.test")
}

// client connects a node and returns the states that it reports.
func (r *rig) client(dial func(context.Context) (net.Conn, error), within, grace time.Duration) (*Client, <-chan State) {
	r.t.Helper()
	states := make(chan State, 100)
	c := NewClient(ClientConfig{Dial: dial, Within: within, Grace: grace, Report: func(s State) {
		select {
		case states <- s:
		default: // nobody looks any more
		}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return c, states
}

// await waits for a state.
func await(t testing.TB, states <-chan State, what string, is func(State) bool) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case s := <-states:
			if is(s) {
				return
			}
		case <-late:
			t.Fatal("never: " + what)
		}
	}
}

func connected(s State) bool { return s.Away == nil }

// next waits until a client's epoch is not after any more.
func next(ctx context.Context, c *Client, after uint64) (uint64, error) {
	for {
		epoch, changed, err := c.Watch()
		if err != nil || epoch != after {
			return epoch, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return epoch, ctx.Err()
		}
	}
}
