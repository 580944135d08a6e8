package intercept

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Flow is one live connection to a server, as it is now, or a stream of one.
type Flow struct {
	ID       uint64         `json:"id"`
	Context  flow.Context   `json:"context"` // of the last request
	Rules    []string       `json:"rules,omitempty"`
	Reason   string         `json:"reason"`
	Profile  flow.Profile   `json:"profile"`
	Epoch    uint64         `json:"epoch"`
	Tunnel   string         `json:"tunnel"`
	Local    netip.AddrPort `json:"local"` // of the connection to the server, which Context.Destination is
	Verified bool           `json:"verified"`
	Started  time.Time      `json:"started"`
	Requests int64          `json:"requests,omitempty"` // of HTTP, on this connection
	Sent     int64          `json:"sent"`               // bytes to the server
	Received int64          `json:"received"`
	Busy     bool           `json:"busy"`             // a request is under way, or the flow is opaque
	Stream   uint32         `json:"stream,omitempty"` // of HTTP/2: the flow is this one of the connection's, and so are its bytes
	// RuleVersion is that of the rules that decided, as in flow.Decision; empty: not known.
	RuleVersion string `json:"rule_version,omitempty"`
}

// of takes over what is known of a request.
func (f *Flow) of(c *flow.Context, d *flow.Decision) {
	f.Context, f.Reason, f.Profile, f.Epoch, f.RuleVersion = *c, d.Reason, d.Profile, d.Epoch, d.RuleVersion
	for _, m := range d.Matches {
		f.Rules = append(f.Rules, m.Rule)
	}
}

// live is a Flow that lives.
type live struct {
	id       uint64
	started  time.Time
	tunnel   string
	local    netip.AddrPort
	verified bool
	sent     atomic.Int64
	received atomic.Int64

	mu       sync.Mutex
	context  flow.Context   // guarded by mu
	decision *flow.Decision // guarded by mu
	requests int64          // guarded by mu
	busy     bool           // guarded by mu
	opaque   bool           // decided once for all that comes; guarded by mu

	limits atomic.Pointer[limits]
	cut    func() // ends both connections at once
	ask    func(*flow.Context) (*flow.Decision, error)

	mux  *mux  // of HTTP/2, nil otherwise; guarded by mu until it is set
	link *link // likewise
}

// serve notes what the connection carries now.
func (l *live) serve(c *flow.Context, d *flow.Decision, opaque bool) {
	l.mu.Lock()
	l.context, l.decision, l.busy, l.opaque = *c, d, true, opaque
	if c.Protocol == flow.HTTP {
		l.requests++
	}
	l.mu.Unlock()
}

// carries is the HTTP/2 connection whose streams the flow carries; nil: it is none of HTTP/2.
func (l *live) carries() *mux {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mux
}

// carry has the flow be what carries streams.
func (l *live) carry(m *mux, k *link) {
	l.mu.Lock()
	l.mux, l.link = m, k
	l.mu.Unlock()
}

// rest notes that the connection carries nothing now, and is there for requests that are decided one by one.
func (l *live) rest() {
	l.mu.Lock()
	l.busy, l.opaque = false, false
	l.mu.Unlock()
}

func (l *live) snapshot() Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := Flow{
		ID: l.id, Tunnel: l.tunnel, Local: l.local, Verified: l.verified, Started: l.started, Requests: l.requests, Busy: l.busy,
		Sent: l.sent.Load(), Received: l.received.Load(),
	}
	f.of(&l.context, l.decision)
	return f
}

// table holds the flows.
type table struct {
	mu   sync.Mutex
	live numbered[*live] // guarded by mu
}

func (t *table) add(l *live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.id = t.live.add(l)
}

func (t *table) remove(l *live) {
	t.mu.Lock()
	t.live.remove(l.id)
	t.mu.Unlock()
}

func (t *table) all() []*live {
	t.mu.Lock()
	defer t.mu.Unlock()
	numbers := t.live.after(0)
	all := make([]*live, len(numbers))
	for i, n := range numbers {
		all[i] = t.live.live[n]
	}
	return all
}

// Flows returns the live flows, the oldest first.
func (e *Engine) Flows() []Flow {
	all := e.flows.all()
	out := make([]Flow, 0, len(all))
	for _, l := range all {
		if l.carries() != nil {
			out = append(out, l.streams()...)
		} else {
			out = append(out, l.snapshot())
		}
	}
	return out
}

// Flows are decided again together, so many at a time, and those are cut while others are being decided: so many at once.
const (
	together = 128
	deciders = 8
)

// Redecide decides all opaque flows again, because the rules changed, and cuts those that may not go on as they are. When
// it returns, nothing is served by older rules but answers to HTTP requests that were under way. The Decider has to
// know the new rules before.
func (e *Engine) Redecide() {
	e.epoch.Add(1)
	all := e.flows.all()
	first := min(len(all), 1)
	e.redecideTogether(all[:first]) // what is decided of it is so of most others
	var group sync.WaitGroup
	work := make(chan []*live)
	for range deciders {
		group.Go(func() {
			for some := range work {
				e.redecideTogether(some)
			}
		})
	}
	for some := range slices.Chunk(all[first:], together) {
		work <- some
	}
	close(work)
	group.Wait()
}

// redecideTogether decides flows again, about which is asked together.
func (e *Engine) redecideTogether(some []*live) {
	if p, ok := e.decider.(Preparer); ok {
		p.Prepare(e.ctx, e.contexts(some))
	}
	for _, l := range some {
		e.redecide(l)
	}
}

// contexts are what flows are decided by again.
func (e *Engine) contexts(all []*live) []flow.Context {
	cs := make([]flow.Context, 0, len(all))
	for _, l := range all {
		if l.carries() != nil {
			cs = append(cs, l.streamContexts()...)
		} else if c, _, opaque := e.again(l); opaque {
			cs = append(cs, c)
		}
	}
	return cs
}

// again is what a flow is decided by now, and how it was before. Only opaque ones are decided again.
func (e *Engine) again(l *live) (c flow.Context, was *flow.Decision, opaque bool) {
	l.mu.Lock()
	c, was, opaque = l.context, l.decision, l.opaque
	l.mu.Unlock()
	c.Risk = e.settings.Load().whose(c.Container).Base.Risk
	return c, was, opaque
}

func (e *Engine) redecide(l *live) {
	if l.carries() != nil {
		e.redecideStreams(l)
		return
	}
	c, old, opaque := e.again(l)
	if !opaque {
		return
	}
	d, err := l.ask(&c)
	if err != nil || d.Profile.Deny || route(&c, d) != route(&c, old) {
		e.count.cut.Add(1)
		l.cut()
		return
	}
	l.mu.Lock()
	l.context, l.decision = c, d
	l.mu.Unlock()
	if !slices.Equal(d.Profile.Rates, old.Profile.Rates) {
		l.limits.Store(e.rates.of(d.Profile.Rates, c.User))
	}
}
