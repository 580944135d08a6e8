package intercept

import (
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Keeper is a Dialer that knows whether a connection by a tunnel is where a new one would be. Where that has to be asked about, a request
// that wants to know waits until the channel is closed, when the answer is there, or until it has waited for so long; meanwhile, and to others, what was
// known is told, and whatever nobody knows anything of is kept.
type Keeper interface {
	Keeps(c *flow.Context, d *flow.Decision, tunnel string) (keeps bool, asked <-chan struct{}, wait time.Duration)
}

// keeps tells whether a request goes by a connection that there is, rather than by a new one.
func (s *session) keeps(x *exchange, up *upstream) bool {
	k := s.e.keeper
	if k == nil {
		return true
	}
	for {
		keeps, asked, wait := k.Keeps(&x.context, x.decision, up.flow.tunnel)
		if asked == nil {
			return keeps
		}
		select {
		case <-asked:
		case <-time.After(wait):
			return keeps
		case <-s.gone:
			return keeps
		}
	}
}

// staying is the link by which a stream goes; nil: there is none, or the stream is led once more when that is known, which waits tells.
func (m *mux) staying(l *link, st *stream, block []byte) (stays *link, waits bool) {
	k := m.e.keeper
	if k == nil || l == nil || !l.ready {
		return l, false
	}
	keeps, asked, wait := k.Keeps(&st.request.context, st.decision, l.conn.flow.tunnel)
	switch {
	case asked != nil:
		m.keep(st, block)
		m.running.Go(func() { m.leadOnce(asked, wait, st) })
		return nil, true
	case !keeps: // what goes by it ends there
		l.leaving = true
		m.elsewhere(l)
		l.endUnused()
		return nil, false
	}
	return l, false
}

// leadOnce leads a stream once it is known where to, or after a while.
func (m *mux) leadOnce(asked <-chan struct{}, wait time.Duration, st *stream) {
	select {
	case <-asked:
	case <-time.After(wait):
	case <-m.ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.over && !st.gone {
		m.lead(st, nil)
		m.flush()
	}
}
