package intercept

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/netns/intercept/http2"
)

// link is a connection to a server, for streams of one client that go the same way.
type link struct {
	wire
	key  routeKey
	conn *upstream // nil: it is being dialled

	// guarded by the mux' mu
	ready       bool               // streams may be opened
	leaving     bool               // no more streams are
	streams     map[uint32]*stream // by the number there
	next        uint32             // number of the next one
	open        int                // streams of it
	streamsMost int                // as the server allows
	told        bool               // it has said so: its first SETTINGS came
	waiting     []*stream          // in their order
	promised    int64              // the window of a new stream that the server was told
	unacked     int                // SETTINGS of which it did not say that they are in force
	connect     bool               // it serves extended CONNECT
	up, down    transit            // bodies of requests in out, bodies of answers in the client's
	answers     answers

	// the last request, and how many there were
	request  *request
	decision *flow.Decision
	requests int64
	last     uint32
}

// unknownStreams is how many streams a server is sent before it says how many it takes.
const unknownStreams = 100

// dial opens a connection to the server of a stream. Streams wait at the link meanwhile.
func (m *mux) dial(key routeKey, st *stream) *link {
	l := &link{key: key, streams: make(map[uint32]*stream), next: 1, streamsMost: unknownStreams}
	m.links = append(m.links, l)
	m.running.Add(1)
	go func() {
		defer m.running.Done()
		ctx, cancel := context.WithTimeout(m.ctx, m.e.limits.Load().Dial)
		conn, err := m.s.connect(ctx, &st.request.context, st.decision, key, st.request.originate, "h2")
		cancel()
		m.mu.Lock()
		if err != nil {
			m.unreachable(l, err)
			m.flush()
			m.mu.Unlock()
			return
		}
		if m.over { // nobody else ends it any more
			m.mu.Unlock()
			m.s.drop(conn, false)
			return
		}
		conn.keepAlive()
		l.begin(m, &conn.side, serverWindow)
		l.conn, l.ready, l.promised, l.unacked = conn, true, m.client.initial, 1
		conn.flow.carry(m, l)
		l.out = append(l.out, http2.Preface...)
		l.out = http2.AppendSettings(l.out, http2.Parameter{Setting: http2.HeaderTableSize}, http2.Parameter{Setting: http2.EnablePush},
			http2.Parameter{Setting: http2.InitialWindowSize, Value: uint32(l.promised)}, http2.Parameter{Setting: http2.MaxHeaderListSize, Value: http2.MaxList})
		l.widen()
		l.admit(m)
		m.flush()
		m.mu.Unlock()
		m.serveLink(l)
	}()
	return l
}

// unreachable answers the streams that waited for a connection.
func (m *mux) unreachable(l *link, err error) {
	l.leaving = true
	m.links = slices.DeleteFunc(m.links, func(o *link) bool { return o == l })
	status := 502
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		status = 504
	}
	for _, st := range l.waiting {
		st.waiting, st.link = false, nil
		if !m.over {
			m.answer(st, status, "no connection to the server: "+err.Error())
		}
	}
	l.waiting = nil
}

// admit opens streams that waited, as many as the server takes.
func (l *link) admit(m *mux) {
	for len(l.waiting) > 0 && l.takes(l.waiting[0]) {
		st := l.waiting[0]
		l.waiting = l.waiting[1:]
		st.waiting = false
		m.open(st, st.block)
	}
}

// takes tells whether a stream can be opened now. Of an extended CONNECT only the server's SETTINGS say whether it serves them.
func (l *link) takes(st *stream) bool {
	return l.ready && !l.leaving && l.open < l.streamsMost && (st.request.tunnel == "" || l.told)
}

// leave has a stream be none of the link's any more.
func (l *link) leave(m *mux, st *stream) {
	if st.waiting {
		st.waiting = false
		l.waiting = slices.DeleteFunc(l.waiting, func(o *stream) bool { return o == st })
	}
	if st.opened && l.streams[st.linkID] == st {
		l.drop(st)
	}
	l.endUnused()
	l.admit(m)
}

// endUnused ends a connection that gets no more streams and has none, once the server was sent all.
func (l *link) endUnused() {
	if l.leaving && l.ready && l.open == 0 && len(l.out) == 0 && !l.writing {
		l.conn.shut() // its reader does the rest
	}
}

// drop has the server be done with a stream.
func (l *link) drop(st *stream) {
	delete(l.streams, st.linkID)
	l.open--
}

// release does so with one whose client is not done with the answer: the server gets nothing more of it, and may take another one.
func (l *link) release(m *mux, st *stream) {
	st.opened = false
	l.drop(st)
	l.admit(m)
}

// serveLink reads the server until the connection ends.
func (m *mux) serveLink(l *link) {
	take := func(f http2.Frame, p []byte) error { return m.fromServer(l, f, p) }
	var err error
	for err == nil {
		if err = l.fill(m.e.limits.Load().Head); isTimeout(err) {
			err = &fatal{http2.EnhanceYourCalm, "a frame that is not complete in time"}
		}
		if err != nil {
			break
		}
		m.mu.Lock()
		err = l.frames(take)
		if len(m.client.out) > highWater || l.own > maxOwn {
			m.flush()
		}
		if err == nil && (len(l.out) > maxUnread || l.own > maxOwn) {
			err = errors.New("it does not read")
		}
		for err == nil && len(m.client.out) > highWater && !m.over {
			m.drained.Wait()
			l.due = time.Time{} // nobody read meanwhile
		}
		l.yield()
	}
	m.mu.Lock()
	m.ended(l, err)
	m.flush()
	m.mu.Unlock()
	m.s.drop(l.conn, !errors.Is(err, io.EOF))
	l.wire.leave()
}

// shutUnread ends connections to servers that do not read: heads of streams that the client has reset pile up there, in no window.
func (m *mux) shutUnread() {
	for _, l := range m.links {
		if l.ready && !l.leaving && len(l.out) > maxUnread {
			l.leaving = true
			l.conn.shut() // its reader does the rest
		}
	}
}

// ended ends what was going over a connection that has ended.
func (m *mux) ended(l *link, err error) {
	l.ready, l.leaving, l.gone = false, true, true
	m.links = slices.DeleteFunc(m.links, func(o *link) bool { return o == l })
	m.e.held.Add(-l.held)
	m.hold(-l.blocks.waiting - l.blocks.done())
	l.blocks.waiting = 0
	m.client.credit(l.up.waiting + l.up.done())
	l.up.waiting = 0
	if m.over {
		return
	}
	var f *fatal
	if errors.As(err, &f) {
		m.e.count.fault(http1.Kind("h2-response-" + f.why))
	}
	m.elsewhere(l)
	for _, st := range l.all() {
		m.lost(st, "the connection to the server ended: "+err.Error())
	}
}

// all are the streams that are open.
func (l *link) all() []*stream {
	all := make([]*stream, 0, len(l.streams))
	for _, st := range l.streams {
		all = append(all, st)
	}
	return all
}

// fromServer takes a frame of a server. The error is a *fatal, which ends the link.
func (m *mux) fromServer(l *link, f http2.Frame, p []byte) error {
	switch f.Type {
	case http2.Data:
		return m.answerData(l, f, p)
	case http2.Headers:
		return m.answerHead(l, f, p)
	case http2.Reset:
		return m.answerReset(l, f, p)
	case http2.WindowUpdate:
		return m.answerWindow(l, f, p)
	case http2.Settings:
		return m.serverSettings(l, f, p)
	case http2.PushPromise:
		return &fatal{http2.ProtocolError, "push that was refused"}
	case http2.GoAway:
		m.goAway(l, http2.Uint32(p)&http2.MaxWindow)
	}
	return nil
}

// goAway has the server get no more streams. Those that it did not take the client may send again, here or elsewhere.
func (m *mux) goAway(l *link, last uint32) {
	l.leaving = true
	m.elsewhere(l)
	for _, st := range l.all() {
		if st.linkID > last {
			l.release(m, st) // the server does not know it
			m.endBoth(st, http2.RefusedStream, http2.NoError)
		}
	}
	l.endUnused()
}

// maxMoves is how often a stream is led elsewhere: a server may end each connection as soon as it is there.
const maxMoves = 3

// elsewhere leads streams that wait for a link to another one.
func (m *mux) elsewhere(l *link) {
	waiting := l.waiting
	l.waiting = nil
	for _, st := range waiting {
		st.waiting, st.link = false, nil
		if st.moved++; st.moved > maxMoves {
			m.answer(st, 502, "the server takes no requests")
			continue
		}
		m.lead(st, nil)
	}
}

func (m *mux) serverSettings(l *link, f http2.Frame, p []byte) error {
	if f.Has(http2.Ack) {
		l.unacked = max(0, l.unacked-1)
		l.decoder.Agreed()
		return nil
	}
	if !l.told {
		l.told, l.streamsMost = true, math.MaxInt32
	}
	code := http2.EachSetting(p, func(p http2.Parameter) http2.Code {
		switch p.Setting {
		case http2.HeaderTableSize:
			l.fresh = true
		case http2.MaxConcurrentStreams:
			l.streamsMost = int(min(p.Value, math.MaxInt32))
		case http2.EnablePush:
			if p.Value != 0 {
				return http2.ProtocolError
			}
		case http2.EnableConnectProtocol:
			l.connect = l.connect || p.Value == 1
		case http2.InitialWindowSize:
			return m.serverInitial(l, int64(p.Value))
		}
		return http2.NoError
	})
	if code != http2.NoError {
		return &fatal{code, "settings"}
	}
	l.out = http2.Frame{Type: http2.Settings, Flags: http2.Ack}.Append(l.out)
	l.own += http2.FrameHeader
	if l.connect && !m.connect {
		m.connect = true
		m.client.out = http2.AppendSettings(m.client.out, http2.Parameter{Setting: http2.EnableConnectProtocol, Value: 1})
	}
	l.admit(m)
	return nil
}

func (m *mux) serverInitial(l *link, n int64) http2.Code {
	change := n - l.initial
	l.initial = n
	for _, st := range l.all() {
		if st.up.send += change; st.up.send > http2.MaxWindow {
			return http2.FlowControlError
		}
		m.pump(st, &st.up)
		m.refill(&st.up)
	}
	return http2.NoError
}

func (m *mux) answerWindow(l *link, f http2.Frame, p []byte) error {
	n := int64(http2.Uint32(p) & http2.MaxWindow)
	if f.Stream == 0 {
		if n == 0 {
			return &fatal{http2.ProtocolError, "a window that grows by nothing"}
		}
		return l.grow(n)
	}
	st, err := l.stream(f.Stream)
	if st == nil {
		return err
	}
	if n == 0 {
		m.lost(st, "the server's answer is no HTTP/2")
		return nil
	}
	if st.up.send += n; st.up.send > http2.MaxWindow {
		m.lost(st, "the server's answer is no HTTP/2")
		return nil
	}
	m.pump(st, &st.up)
	m.refill(&st.up)
	return nil
}

// stream finds a stream by its number at the server; nil without an error: it is over.
func (l *link) stream(id uint32) (*stream, error) {
	st := l.streams[id]
	if st == nil && (id >= l.next || id%2 == 0) {
		return nil, &fatal{http2.ProtocolError, "a stream that does not exist"}
	}
	return st, nil
}
