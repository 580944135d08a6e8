package intercept

import (
	"cmp"
	"slices"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
)

// streams are the streams of a link as flows, the oldest first; without any the connection with its last request.
func (l *live) streams() []Flow {
	m := l.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	base := Flow{ID: l.id, Tunnel: l.tunnel, Local: l.local, Verified: l.verified, Started: l.started}
	k := l.link
	if len(k.streams) == 0 {
		if k.request == nil {
			return nil
		}
		base.Requests, base.Sent, base.Received = k.requests, l.sent.Load(), l.received.Load()
		base.of(&k.request.context, k.decision)
		return []Flow{base}
	}
	all := k.all()
	slices.SortFunc(all, func(a, b *stream) int { return cmp.Compare(a.id, b.id) })
	flows := make([]Flow, 0, len(all))
	for _, st := range all {
		f := base
		f.Stream, f.Started, f.Busy, f.Requests, f.Sent, f.Received = st.id, st.started, true, 1, st.sent, st.received
		f.of(&st.request.context, st.decision)
		flows = append(flows, f)
	}
	return flows
}

// streamContexts are what the streams of a link are decided by now.
func (l *live) streamContexts() (cs []flow.Context) {
	m := l.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, st := range l.link.streams {
		cs = append(cs, m.again(st))
	}
	return cs
}

// again is what a stream is decided by now.
func (m *mux) again(st *stream) flow.Context {
	c := st.request.context
	c.Risk = m.settings().Base.Risk
	return c
}

// redecideStreams decides the streams of a link again and ends those that may not go on as they are.
func (e *Engine) redecideStreams(l *live) {
	m := l.mux
	m.mu.Lock()
	all := l.link.all()
	m.mu.Unlock()
	for _, st := range all {
		c := m.again(st)
		d, err := m.s.ask(&c)
		m.mu.Lock()
		if !m.over && !st.gone && !st.ours {
			m.redecided(st, &c, d, err)
			m.flush()
		}
		m.mu.Unlock()
	}
}

// redecided does what a new decision demands of a stream that is under way.
func (m *mux) redecided(st *stream, c *flow.Context, d *flow.Decision, err error) {
	if err == nil && !d.Profile.Deny && route(c, d) == route(&st.request.context, st.decision) {
		st.decision, st.epoch = d, m.e.epoch.Load()
		st.limits = m.limitsOf(d, c.User)
		return
	}
	m.e.count.cut.Add(1)
	status, why := 503, "the rules changed"
	if err == nil && d.Profile.Deny {
		status, why = 403, "denied"+because(d)
	}
	switch {
	case st.down.ended:
		m.lost(st, why)
	case !st.answered:
		m.answer(st, status, why)
	case st.request.grpc:
		m.breakOff(st, grpcCodes[status], why)
	default:
		m.endBoth(st, http2.Cancel, http2.Cancel)
	}
}
