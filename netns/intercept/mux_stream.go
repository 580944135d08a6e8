package intercept

import (
	"slices"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
	"forefend.dev/forefend/netns/intercept/rate"
)

// stream is one request and its answer.
type stream struct {
	id       uint32 // the client's
	request  *request
	decision *flow.Decision
	limits   *limits
	charge   charge
	queued   bool // for its turn; what was taken is given back if it ends before
	started  time.Time

	link   *link  // nil: there is none yet, or the answer is ours
	linkID uint32 // its number there
	opened bool   // the server has its head
	block  []byte // the head, while it was not sent

	up, down half
	answered bool // the final head of the answer was passed on
	moved    int  // from links that took it not
	interim  int  // heads before that
	ours     bool // the answer is
	deciding bool // a goroutine asks
	waiting  bool // among the link's that wait
	gone     bool
	epoch    uint64 // of the engine, when it was decided

	// after is why the stream is reset once the answer is over.
	after    http2.Code
	resets   bool
	forced   bool // although the client has ended it
	sent     int64
	received int64
}

// half is one direction of a stream: the request's body, or the answer's.
type half struct {
	st       *stream
	up       bool
	queue    []byte // what was not passed on
	send     int64  // bytes that the receiver takes
	recv     int64  // bytes that the sender may send
	left     int64  // bytes that Content-Length promises; -1: it does not
	ended    bool   // the sender has sent all
	closed   bool   // so has the receiver got it
	trailers []byte // what comes after the queue

	blocked bool  // the receiver's connection has no window
	paid    int64 // bytes that limits let pass
	held    bool  // until limits let more pass
}

// dst is where a half's bytes go, and the stream's number there.
func (m *mux) dst(h *half) (*wire, uint32) {
	if h.up {
		return &h.st.link.wire, h.st.linkID
	}
	return &m.client, h.st.id
}

// src is where they come from; nil: from us.
func (m *mux) src(h *half) (*wire, uint32) {
	if h.up {
		return &m.client, h.st.id
	}
	if h.st.link == nil {
		return nil, 0
	}
	return &h.st.link.wire, h.st.linkID
}

// rates are what hold a half back.
func (h *half) rates() []*rate.Limit {
	l := h.st.limits
	switch {
	case l == nil:
		return nil
	case h.up:
		return l.up
	}
	return l.down
}

// body takes bytes of a body, and passes on what may go now.
func (m *mux) body(h *half, data []byte, end bool) {
	h.ended = end
	if len(data) == 0 && !end {
		return
	}
	if len(h.queue) == 0 && m.passes(h, len(data)) {
		m.emit(h, data, end)
		return
	}
	h.queue = append(h.queue, data...)
	m.pump(h.st, h)
	if h.up {
		m.client.lend(int64(min(len(h.queue), len(data))))
	}
}

// passes tells whether so many bytes can go on at once.
func (m *mux) passes(h *half, n int) bool {
	if h.up && !h.st.opened || len(h.rates()) > 0 {
		return false
	}
	dst, _ := m.dst(h)
	return n == 0 || int64(n) <= h.send && int64(n) <= dst.window
}

// emit sends a frame of a body.
func (m *mux) emit(h *half, data []byte, end bool) {
	dst, id := m.dst(h)
	f := http2.Frame{Length: len(data), Type: http2.Data, Stream: id}
	if end {
		f.Flags = http2.EndStream
	}
	n := int64(len(data))
	dst.out = append(f.Append(dst.out), data...)
	dst.window -= n
	h.send -= n
	dst.noise.calm(len(data))
	m.count(h, int(n)+http2.FrameHeader)
	if l := h.st.link; l != nil {
		if h.up {
			l.up.waiting += n
		} else {
			l.down.waiting += n
		}
	}
	if end {
		m.passedEnd(h)
	}
}

// count counts bytes of a stream.
func (m *mux) count(h *half, n int) {
	l := h.st.link
	if l == nil || l.conn == nil {
		return
	}
	if h.up {
		h.st.sent += int64(n)
		l.conn.flow.sent.Add(int64(n))
	} else {
		h.st.received += int64(n)
		l.conn.flow.received.Add(int64(n))
	}
}

// pump passes on what waits, as far as windows and limits let it.
func (m *mux) pump(st *stream, h *half) {
	if st.gone || h.closed || h.up && !st.opened || h.held || h.blocked {
		return
	}
	for len(h.queue) > 0 {
		if m.pumpOne(h) == 0 {
			return
		}
		if st.gone {
			return
		}
	}
	h.queue = nil
	if !h.ended {
		m.refill(h)
		return
	}
	if trailers := h.trailers; trailers != nil {
		h.trailers = nil
		m.unhold(trailers)
		m.trail(h, trailers)
	} else if !h.closed {
		m.emit(h, nil, true)
	}
}

// pumpOne passes one frame on, and returns how much it was; 0: none can go.
func (m *mux) pumpOne(h *half) int {
	dst, _ := m.dst(h)
	n := min(int64(len(h.queue)), h.send, http2.MaxPayload)
	if n <= 0 {
		return 0
	}
	if dst.window <= 0 {
		h.blocked = true
		if dst.blocked = append(dst.blocked, h); len(dst.blocked) > 2*maxStreams { // of streams that are no more
			dst.blocked = slices.DeleteFunc(dst.blocked, func(h *half) bool { return h.st.gone })
		}
		return 0
	}
	n = min(n, dst.window)
	if limits := h.rates(); len(limits) > 0 {
		if h.paid == 0 && !m.pay(h, limits, n) {
			return 0
		}
		n = min(n, h.paid)
		h.paid -= n
	}
	data := h.queue[:n]
	h.queue = h.queue[n:]
	m.emit(h, data, h.ended && len(h.queue) == 0 && h.trailers == nil)
	return int(n)
}

// pay has limits let bytes pass. It returns false where that takes time, after which the half is pumped again.
func (m *mux) pay(h *half, limits []*rate.Limit, n int64) bool {
	n = min(n, piece(limits))
	var wait time.Duration
	now := time.Now()
	for _, l := range limits {
		wait = max(wait, l.Take(now, n))
	}
	h.paid = n
	if wait == 0 {
		return true
	}
	h.held = true
	m.after(wait, func() {
		h.held = false
		m.pump(h.st, h)
	})
	return false
}

// after does something later, unless the connection has ended.
func (m *mux) after(wait time.Duration, do func()) {
	time.AfterFunc(wait, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !m.over {
			do()
			m.flush()
		}
	})
}

// trail sends the block that ends a message.
func (m *mux) trail(h *half, block []byte) {
	dst, id := m.dst(h)
	dst.headers(id, block, true)
	m.count(h, len(block)+http2.FrameHeader)
	m.passedEnd(h)
}

// passedEnd closes a direction.
func (m *mux) passedEnd(h *half) {
	h.closed = true
	st := h.st
	if !h.up && st.resets {
		if st.ours && !st.forced && !st.up.ended { // curl 7.88 takes a reset without error for a failure: it may end by itself
			m.after(lingerTime, func() { m.finish(st) })
			return
		}
		m.finish(st)
		return
	}
	if st.up.closed && st.down.closed {
		m.finish(st)
	}
}

// balance lets the sender of a half send what the receiver takes.
func (m *mux) balance(h *half) {
	src, id := m.src(h)
	if src == nil || h.ended || h.st.gone || !h.st.opened {
		return
	}
	more := h.send - int64(len(h.queue)) - h.recv
	if h.up {
		more = min(more, ahead-int64(len(h.queue))-h.recv)
	}
	if more > 0 {
		src.out = http2.AppendWindowUpdate(src.out, id, more)
		h.recv += more
	}
}

// refill does so where the sender has not much left.
func (m *mux) refill(h *half) {
	if h.recv < http2.DefaultWindow/2 {
		m.balance(h)
	}
}

// unblock passes on what waited for a connection's window, a frame of each in turn.
func (m *mux) unblock(w *wire) {
	for len(w.blocked) > 0 && w.window > 0 {
		h := w.blocked[0]
		w.blocked = w.blocked[1:]
		h.blocked = false
		if h.st.gone || h.closed || h.up && !h.st.opened {
			continue
		}
		if len(w.blocked) == 0 {
			m.pump(h.st, h)
			return
		}
		if m.pumpOne(h); len(h.queue) == 0 {
			m.pump(h.st, h)
		} else if !h.blocked && !h.held && !h.st.gone && h.send > 0 {
			h.blocked = true
			w.blocked = append(w.blocked, h)
		}
	}
}

// finish ends a stream whose answer is over.
func (m *mux) finish(st *stream) {
	if st.gone {
		return
	}
	if st.resets && (!st.up.ended || st.forced) {
		m.client.out = http2.AppendReset(m.client.out, st.id, st.after)
	}
	m.forget(st)
}

// forget has the stream be no more. What waits of it is dropped.
func (m *mux) forget(st *stream) {
	if st.gone {
		return
	}
	st.gone = true
	delete(m.streams, st.id)
	st.leaveQueue()
	m.bury(st.id, st.up.ended)
	if !st.deciding {
		m.busy--
	}
	m.client.credit(int64(len(st.up.queue)))
	m.unhold(st.block, st.up.trailers, st.down.trailers)
	st.block, st.up.queue, st.up.trailers, st.down.trailers = nil, nil, nil, nil
	l := st.link
	if l == nil {
		st.down.queue = nil
		return
	}
	l.credit(int64(len(st.down.queue)))
	st.down.queue = nil
	l.leave(m, st)
}

// leaveQueue gives back what was taken of limits for a turn that did not come.
func (st *stream) leaveQueue() {
	if st.queued {
		st.queued = false
		st.charge.back()
	}
}

// wait keeps the block that ends a message until what comes before it was passed on.
func (m *mux) wait(h *half, block []byte) {
	h.trailers = append([]byte{}, block...)
	m.hold(int64(len(block)))
}

// hold counts the bytes of a block that waits, or with fewer than 0 does not any more.
func (m *mux) hold(n int64) {
	m.kept += n
	m.e.held.Add(n)
}

// unhold counts those of blocks of a stream that do not.
func (m *mux) unhold(blocks ...[]byte) {
	for _, b := range blocks {
		m.hold(-int64(len(b)))
	}
}

// endBoth resets a stream on both sides.
func (m *mux) endBoth(st *stream, client, server http2.Code) {
	if st.gone {
		return
	}
	m.client.out = http2.AppendReset(m.client.out, st.id, client)
	m.client.own += http2.FrameHeader + 4
	m.resetLink(st, server)
	m.forget(st)
}

// resetLink has the server stop.
func (m *mux) resetLink(st *stream, code http2.Code) {
	if st.opened && !(st.up.closed && st.down.ended) {
		st.link.out = http2.AppendReset(st.link.out, st.linkID, code)
	}
}
