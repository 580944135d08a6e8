package intercept

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/netns/intercept/hello"
	"forefend.dev/forefend/netns/intercept/names"
)

// beginsQuery reads as much of a connection to a name server's port as it takes to tell whether it begins with a query. Servers of
// names do not speak first, so a client is waited for: it could hide a query by being slow, else.
func (s *session) beginsQuery() (is, ok bool) {
	for end := time.Now().Add(s.e.limits.Load().Head); ; {
		b := s.client.buf.bytes()
		switch {
		case len(b) >= hello.Enough && hello.Begins(b):
			return false, true
		case len(b) >= names.First:
			return names.Begins(b), true
		}
		if err := s.fillWithin(time.Until(end)); errors.Is(err, io.EOF) && len(b) > 0 {
			return false, true
		} else if err != nil {
			s.abort()
			return false, false
		}
	}
}

// queries is a connection with queries on it (RFC 7766). Each is decided on its own, and the answers come as servers give them:
// the numbers are the client's own, since nobody but the server can answer.
type queries struct {
	*session
	asked   tcpMessages
	heard   map[*upstream]*tcpMessages // what servers say
	mu      sync.Mutex                 // held while the client is written to
	readers sync.WaitGroup
}

// tcpMessages are those of a stream, with their length before each. One goroutine reads them.
type tcpMessages struct {
	*side
	limits *atomic.Pointer[Limits]

	mu   sync.Mutex
	last time.Time // when nobody reads any more; zero: never; guarded by mu
}

// serveQueries answers the queries of a connection until its end.
func (s *session) serveQueries() {
	st := &queries{session: s, asked: tcpMessages{side: &s.client, limits: &s.e.limits}, heard: make(map[*upstream]*tcpMessages)}
	for {
		b, err := st.asked.next()
		if err != nil {
			st.finish(errors.Is(err, io.EOF))
			return
		}
		if !st.query(b) {
			st.finish(false)
			return
		}
	}
}

// finish ends the connections to servers. Those of a client that sends no more, but may listen, have their time to answer.
func (st *queries) finish(listens bool) {
	for _, up := range st.upstreams() {
		if !listens {
			up.end(st.e.watch, false)
			continue
		}
		up.closeWrite()
		st.heard[up].end(time.Now().Add(answerWait))
	}
	st.readers.Wait()
}

// query has one query answered. It returns false at the end of the connection.
func (st *queries) query(b []byte) bool {
	l := &st.e.lookups
	settings := st.settings()
	l.askedBytes.Add(int64(len(b)))
	if !l.admit(settings.pace()) {
		return st.refuse(b, names.Failed)
	}
	q, err := names.ReadQuery(b)
	if err != nil {
		l.malformed.Add(1)
		return st.refuse(b, names.Malformed)
	}
	return st.pass(q, b, nil)
}

// pass decides about a query, which has taken its turn of some limits before, and does what was decided.
func (st *queries) pass(q names.Query, b []byte, taken charge) bool {
	epoch := st.e.epoch.Load()
	c, d, code := st.e.asked(st.settings(), q, st.to)
	if code != 0 {
		taken.back()
		return st.refuse(b, code)
	}
	if !taken.take(st.limitsOf(&d, c.User).ofRequests(), st.gone) {
		return false
	}
	key := route(&c, &d)
	up := st.find(key)
	if up == nil {
		var err error
		if up, err = st.open(&c, &d, key, nil); err != nil {
			st.e.lookups.failed.Add(1)
			return st.refuse(b, names.Failed)
		}
		in := &tcpMessages{side: &up.side, limits: &st.e.limits}
		st.heard[up] = in
		st.readers.Go(func() { st.hear(up, in) })
	}
	if st.e.epoch.Load() != epoch { // the rules changed meanwhile
		return st.pass(q, b, taken)
	}
	up.flow.serve(&c, &d, false)
	up.flow.sent.Add(int64(2 + len(b)))
	return up.write(framed(b)) == nil || st.refuse(b, names.Failed)
}

// find is the connection by which a query goes, if there is one.
func (st *queries) find(key routeKey) *upstream {
	for _, up := range st.upstreams() {
		if up.route == key && !up.hung.Load() {
			return up
		}
		if up.hung.Load() { // nobody reads it any more
			st.drop(up, false)
			delete(st.heard, up)
		}
	}
	return nil
}

// hear passes on what a server answers, until it ends. The last one ends the client's connection too, as it would without us.
func (st *queries) hear(up *upstream, in *tcpMessages) {
	for {
		b, err := in.next()
		if err != nil {
			break
		}
		up.flow.received.Add(int64(2 + len(b)))
		if b = st.e.heard(st.e.settings.Load(), b, up.route.to); b == nil || st.send(b) != nil {
			break
		}
	}
	up.hung.Store(true)
	for _, other := range st.upstreams() {
		if !other.hung.Load() {
			return
		}
	}
	st.asked.end(past)
}

func (st *queries) refuse(b []byte, code names.Code) bool {
	answer := names.Refuse(b, code)
	return answer != nil && st.send(answer) == nil
}

// send writes a message to the client.
func (st *queries) send(b []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.client.write(framed(b))
}

// framed is a message with its length before it, to be written at once.
func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
}

// next reads the next message, all of which has to come within Limits.Head of its beginning. The error is io.EOF at the stream's end.
func (m *tcpMessages) next() ([]byte, error) {
	begun := false
	for {
		b := m.buf.bytes()
		if len(b) >= 2 {
			if n := 2 + int(binary.BigEndian.Uint16(b)); len(b) >= n {
				if begun {
					m.until(time.Time{})
				}
				out := append([]byte(nil), b[2:n]...)
				m.buf.consume(n)
				return out, nil
			}
		}
		if len(b) > 0 && !begun {
			begun = true
			m.until(time.Now().Add(m.limits.Load().Head))
		}
		if err := m.fill(); err != nil {
			return nil, err
		}
	}
}

// until has what is read come by a time; zero: some time.
func (m *tcpMessages) until(by time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if by.IsZero() || !m.last.IsZero() && m.last.Before(by) {
		by = m.last
	}
	_ = m.tcp.SetReadDeadline(by) // one that is closed needs none
}

// end has nothing be read after a time. It may be called from any goroutine.
func (m *tcpMessages) end(last time.Time) {
	m.mu.Lock()
	m.last = last
	m.mu.Unlock()
	m.until(time.Time{})
}
