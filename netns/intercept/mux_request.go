package intercept

import (
	"errors"
	"time"

	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/netns/intercept/http2"
)

// requestHead takes the HEADERS of the client: a new stream, or what ends one. The error is a *fatal, as of all that take frames.
func (m *mux) requestHead(f http2.Frame, p []byte) error {
	if f.Stream%2 == 0 {
		return &fatal{http2.ProtocolError, "a stream of an even number"}
	}
	block, err := m.client.bare(f, p)
	if err != nil {
		return err
	}
	var r *request
	end := f.Has(http2.EndStream)
	if m.client.decoder.Settled() && f.Stream > m.last {
		r = m.ofKnown(block, end)
	}
	var fault error
	if r == nil {
		if block, fault, err = m.client.decode(block); err != nil {
			return err
		}
	}
	m.client.noise.calm(0)
	itself := f.Flags&dependsOnItself != 0
	if on, ok := f.DependsOn(p); ok && on == f.Stream {
		itself = true
	}
	if st := m.streams[f.Stream]; st != nil {
		return m.requestTrailers(st, block, fault, end)
	}
	if f.Stream <= m.last {
		if m.died(f.Stream) {
			return nil
		}
		return &fatal{http2.StreamClosed, "a head on a stream that is closed"}
	}
	m.last = f.Stream
	if m.busy >= maxStreams {
		m.bury(f.Stream, end)
		m.client.out = http2.AppendReset(m.client.out, f.Stream, http2.RefusedStream)
		m.client.own += http2.FrameHeader + 4
		return m.futile()
	}
	st := &stream{id: f.Stream, started: time.Now()}
	st.up = half{st: st, up: true, recv: http2.DefaultWindow, left: -1, ended: end}
	st.down = half{st: st, send: m.client.initial, left: -1}
	m.streams[st.id] = st
	m.busy++
	m.e.count.requests.Add(1)
	if fault == nil && itself {
		return m.offend(st, http2.ProtocolError)
	}
	if fault == nil && r == nil {
		r, fault = m.ofBlock(block, end)
	}
	if fault != nil {
		return m.malformed(st, fault)
	}
	st.request = r
	st.up.left = r.length
	m.decide(st, block)
	switch {
	case st.block != nil:
		return m.full(nil)
	case st.link != nil:
		return m.full(&st.link.wire)
	}
	return nil
}

// bury notes that a stream is over, and whether its client had sent all.
func (m *mux) bury(id uint32, ended bool) {
	if !ended {
		m.dead[id/2%uint32(len(m.dead))] = id
	}
}

// died tells whether a stream ended before the client had sent all: what it sent meanwhile is no mistake.
func (m *mux) died(id uint32) bool { return m.dead[id/2%uint32(len(m.dead))] == id }

// futile counts a stream that came to nothing by the client's doing.
func (m *mux) futile() error {
	if m.resets.add(1) {
		return &fatal{http2.EnhanceYourCalm, "too many streams that come to nothing"}
	}
	return nil
}

// malformed answers a request that has no single interpretation.
func (m *mux) malformed(st *stream, err error) error {
	var f *http1.Fault
	if errors.As(err, &f) {
		m.e.count.fault(f.Kind)
	}
	st.resets, st.forced, st.after = true, true, http2.ProtocolError
	m.resetLink(st, http2.Cancel)
	m.answer(st, 400, err.Error())
	return m.futile()
}

// offend resets a stream for what the client did on it.
func (m *mux) offend(st *stream, code http2.Code) error {
	m.endBoth(st, code, http2.Cancel)
	return m.futile()
}

func (m *mux) requestTrailers(st *stream, block []byte, fault error, end bool) error {
	if st.up.ended {
		return m.offend(st, http2.StreamClosed)
	}
	var h http2.Head
	if fault == nil {
		fault = h.ParseTrailers(&m.client.block)
	}
	if fault == nil && !end {
		fault = &http1.Fault{Kind: http2.BadTrailer}
	}
	if fault == nil && st.up.left > 0 && !st.ours {
		fault = &http1.Fault{Kind: http2.BadBody}
	}
	if fault != nil {
		m.e.count.fault(fault.(*http1.Fault).Kind)
		return m.offend(st, http2.ProtocolError)
	}
	st.up.ended = true
	if st.ours {
		m.endsOurs(st)
		return nil
	}
	if len(st.up.queue) == 0 && st.opened {
		m.trail(&st.up, block)
		return nil
	}
	m.wait(&st.up, block)
	m.pump(st, &st.up)
	return m.full(nil)
}

func (m *mux) requestData(f http2.Frame, p []byte) error {
	if err := m.client.received(f.Length); err != nil {
		return err
	}
	n, end := int64(f.Length), f.Has(http2.EndStream)
	data, ok := f.Unpad(p)
	if !ok {
		return &fatal{http2.ProtocolError, "padding that is longer than its frame"}
	}
	if len(data) == 0 && !end {
		if err := m.client.annoy(1); err != nil {
			return err
		}
	} else {
		m.client.noise.calm(0)
	}
	st := m.streams[f.Stream]
	if st == nil {
		m.client.credit(n)
		switch {
		case f.Stream > m.last || f.Stream%2 == 0:
			return &fatal{http2.ProtocolError, "a body of a stream that does not exist"}
		case m.died(f.Stream):
			return nil
		}
		m.client.out = http2.AppendReset(m.client.out, f.Stream, http2.StreamClosed)
		m.client.own += http2.FrameHeader + 4
		return m.futile()
	}
	h := &st.up
	if h.ended {
		m.client.credit(n)
		return m.offend(st, http2.StreamClosed)
	}
	if h.recv -= n; h.recv < 0 {
		m.client.credit(n)
		return m.offend(st, http2.FlowControlError)
	}
	if h.left >= 0 && !st.ours {
		if h.left -= int64(len(data)); h.left < 0 || end && h.left > 0 {
			m.client.credit(n)
			m.e.count.fault(http2.BadBody)
			return m.offend(st, http2.ProtocolError)
		}
	}
	m.client.credit(n - int64(len(data)))
	if st.ours {
		m.client.credit(int64(len(data)))
		if h.ended = end; end {
			m.endsOurs(st)
		}
		return nil
	}
	m.body(h, data, end)
	m.refill(h)
	return nil
}

// endsOurs ends a stream that we answered, when the client has sent all.
func (m *mux) endsOurs(st *stream) {
	if st.down.closed {
		m.finish(st)
	}
}

func (m *mux) requestReset(f http2.Frame, p []byte) error {
	st := m.streams[f.Stream]
	if st == nil {
		if f.Stream > m.last || f.Stream%2 == 0 {
			return &fatal{http2.ProtocolError, "a reset of a stream that does not exist"}
		}
		return nil
	}
	futile := !st.answered
	m.resetLink(st, http2.Code(http2.Uint32(p)))
	st.up.ended = true // what comes after this is a mistake
	m.forget(st)
	if futile {
		return m.futile()
	}
	return nil
}

func (m *mux) requestWindow(f http2.Frame, p []byte) error {
	n := int64(http2.Uint32(p) & http2.MaxWindow)
	if f.Stream == 0 {
		if n == 0 {
			return &fatal{http2.ProtocolError, "a window that grows by nothing"}
		}
		return m.client.grow(n)
	}
	st := m.streams[f.Stream]
	if st == nil {
		if f.Stream > m.last || f.Stream%2 == 0 {
			return &fatal{http2.ProtocolError, "a window of a stream that does not exist"}
		}
		return nil
	}
	if n == 0 {
		return m.offend(st, http2.ProtocolError)
	}
	if st.down.send += n; st.down.send > http2.MaxWindow {
		return m.offend(st, http2.FlowControlError)
	}
	m.pump(st, &st.down)
	m.balance(&st.down)
	return nil
}

// grow takes a WINDOW_UPDATE of the connection.
func (w *wire) grow(n int64) error {
	if w.window += n; w.window > http2.MaxWindow {
		return &fatal{http2.FlowControlError, "a window that is too large"}
	}
	w.m.unblock(w)
	return nil
}
