package intercept

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Flow is one live connection to a server, as it is now.
type Flow struct {
	ID       uint64       `json:"id"`
	Context  flow.Context `json:"context"` // of the last request
	Rules    []string     `json:"rules,omitempty"`
	Reason   string       `json:"reason"`
	Profile  flow.Profile `json:"profile"`
	Epoch    uint64       `json:"epoch"`
	Tunnel   string       `json:"tunnel"`
	Verified bool         `json:"verified"`
	Started  time.Time    `json:"started"`
	Requests int64        `json:"requests,omitempty"` // of HTTP, on this connection
	Sent     int64        `json:"sent"`               // bytes to the server
	Received int64        `json:"received"`
	Busy     bool         `json:"busy"` // a request is under way, or the flow is opaque
}

// live is a Flow that lives.
type live struct {
	id       uint64
	started  time.Time
	tunnel   string
	verified bool
	sent     atomic.Int64
	received atomic.Int64

	mu       sync.Mutex
	context  flow.Context  // guarded by mu
	decision flow.Decision // guarded by mu
	requests int64         // guarded by mu
	busy     bool          // guarded by mu
	opaque   bool          // decided once for all that comes; guarded by mu

	limits atomic.Pointer[limits]
	cut    func() // ends both connections at once
}

// serve notes what the connection carries now.
func (l *live) serve(c *flow.Context, d *flow.Decision, opaque bool) {
	l.mu.Lock()
	l.context, l.decision, l.busy, l.opaque = *c, *d, true, opaque
	if c.Protocol == flow.HTTP {
		l.requests++
	}
	l.mu.Unlock()
}

func (l *live) rest() {
	l.mu.Lock()
	l.busy = false
	l.mu.Unlock()
}

func (l *live) snapshot() Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := Flow{
		ID: l.id, Context: l.context, Reason: l.decision.Reason, Profile: l.decision.Profile, Epoch: l.decision.Epoch,
		Tunnel: l.tunnel, Verified: l.verified, Started: l.started, Requests: l.requests, Busy: l.busy,
		Sent: l.sent.Load(), Received: l.received.Load(),
	}
	for _, m := range l.decision.Matches {
		f.Rules = append(f.Rules, m.Rule)
	}
	return f
}

// table holds the flows.
type table struct {
	mu   sync.Mutex
	last uint64           // guarded by mu
	live map[uint64]*live // guarded by mu
}

func (t *table) add(l *live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live == nil {
		t.live = make(map[uint64]*live)
	}
	t.last++
	l.id = t.last
	t.live[l.id] = l
}

func (t *table) remove(l *live) {
	t.mu.Lock()
	delete(t.live, l.id)
	t.mu.Unlock()
}

func (t *table) all() []*live {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*live, 0, len(t.live))
	for _, l := range t.live {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *live) int { return cmp.Compare(a.id, b.id) })
	return all
}

// Flows returns the live flows, the oldest first.
func (e *Engine) Flows() []Flow {
	all := e.flows.all()
	out := make([]Flow, len(all))
	for i, l := range all {
		out[i] = l.snapshot()
	}
	return out
}

// deciders is how many flows are decided again at once.
const deciders = 8

// Redecide decides all opaque flows again, because the rules changed, and cuts those that may not go on as they are. When
// it returns, nothing is served by older rules but answers to HTTP requests that were under way. The Decider has to
// know the new rules before.
func (e *Engine) Redecide() {
	var group sync.WaitGroup
	work := make(chan *live)
	for range deciders {
		group.Go(func() {
			for l := range work {
				e.redecide(l)
			}
		})
	}
	for _, l := range e.flows.all() {
		work <- l
	}
	close(work)
	group.Wait()
}

func (e *Engine) redecide(l *live) {
	l.mu.Lock()
	c, old, opaque := l.context, l.decision, l.opaque
	l.mu.Unlock()
	if !opaque {
		return
	}
	s := e.settings.Load()
	c.Risk = s.Base.Risk
	d, err := e.decider.Decide(e.ctx, c)
	if err != nil || d.Profile.Deny || route(&c, &d) != route(&c, &old) {
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
