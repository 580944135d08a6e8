package intercept

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/netns/intercept/http2"
)

// Bounds of an HTTP/2 connection.
const (
	// maxStreams is how many streams a client may have open at once.
	maxStreams = 1024
	// maxLinks is how many connections to servers the streams of one client may have at once.
	maxLinks = 16
	// clientWindow is how many bytes of request bodies wait to be passed on, serverWindow how many of the answers of one
	// server: as many as are under way on a long line.
	clientWindow = 256 << 10
	serverWindow = 1 << 20
	// ahead is how many bytes of one body a client may send before its server has taken them, and maxLent how many of all may
	// wait for servers that do not, so that those of other servers can go on.
	ahead   = 256 << 10
	maxLent = 16 << 20
	// maxHeld is how many bytes all connections together hold because somebody does not take them.
	maxHeld = 128 << 20
	// maxOwn is how many bytes of our own answers may wait for a client that does not read, maxUnread how many bytes for a
	// server, and highWater how many for a client before servers are not read any more.
	maxOwn    = 256 << 10
	maxUnread = 24 << 20
	highWater = 512 << 10
)

// mux serves a client's HTTP/2 connection (RFC 9113): each of its streams is decided on its own and carried on by a connection
// to a server the way it demands, frame by frame. Frames of requests pass in the goroutine that reads the client, those of
// answers in the one that reads their server; who has frames to send writes them if the socket takes them, and leaves them to
// a goroutine if it does not.
type mux struct {
	s       *session
	e       *Engine
	ctx     context.Context // of decisions and dials; ends with the connection
	running sync.WaitGroup  // of all goroutines but the client's

	mu      sync.Mutex // guards everything below, and all wires, links and streams but what their readers own
	drained sync.Cond  // something was written to the client, or it is over
	client  wire
	links   []*link
	streams map[uint32]*stream
	last    uint32 // the highest stream the client opened
	kept    int64  // bytes of header blocks that were not passed on
	busy    int    // streams, with those that are reset and still being decided
	over    bool
	resets  noise       // streams that came to nothing by the client's doing
	dead    [256]uint32 // streams that ended before the client had sent all, by a part of their number
	heads   heads
	limits  []limitsFor
	connect bool // the client was told that extended CONNECT is served
}

// fatal ends a connection.
type fatal struct {
	code http2.Code
	why  string
}

func (f *fatal) Error() string { return f.why }

// serveHTTP2 serves an HTTP/2 connection, of whose preface the first line is there.
func (s *session) serveHTTP2() {
	ctx, cancel := context.WithCancel(s.e.ctx)
	defer cancel()
	s.setDialing(cancel)
	m := &mux{s: s, e: s.e, ctx: ctx, streams: make(map[uint32]*stream)}
	m.drained.L = &m.mu
	m.client.begin(m, &s.client, clientWindow)
	err := m.serve()
	m.mu.Lock()
	m.over = true
	m.drained.Broadcast()
	for _, st := range m.streams {
		st.leaveQueue()
	}
	for _, l := range m.links {
		if l.conn != nil {
			l.conn.shut()
		}
	}
	m.mu.Unlock()
	cancel()
	var f *fatal
	if errors.As(err, &f) {
		m.farewell(f)
	} else if !errors.Is(err, io.EOF) {
		s.abort()
	}
	s.client.end(s.e.watch, false) // whoever still writes to it
	m.running.Wait()
	m.e.held.Add(-m.client.held - m.kept)
}

// serve reads the client until its connection ends.
func (m *mux) serve() error {
	if err := m.client.takePreface(m.e.limits.Load().Head); err != nil {
		return err
	}
	m.mu.Lock()
	m.client.out = http2.AppendSettings(m.client.out,
		http2.Parameter{Setting: http2.HeaderTableSize}, http2.Parameter{Setting: http2.MaxConcurrentStreams, Value: maxStreams},
		http2.Parameter{Setting: http2.MaxHeaderListSize, Value: http2.MaxList})
	m.client.widen()
	for {
		err := m.client.frames(m.fromClient)
		if err == nil && m.client.own > maxOwn {
			if m.flush(); m.client.own > maxOwn { // it does not read; else much came at once
				err = &fatal{http2.EnhanceYourCalm, "answers are not read"}
			}
		}
		m.shutUnread()
		m.client.yield()
		if err == nil {
			err = m.client.fill(m.e.limits.Load().Head)
		}
		if err != nil {
			return err
		}
		m.mu.Lock()
	}
}

// farewell tells the client why its connection ends. Nobody else writes to it any more but who had begun.
func (m *mux) farewell(f *fatal) {
	m.e.count.fault(http1.Kind("h2-" + f.why))
	_ = m.s.client.tcp.SetWriteDeadline(time.Now().Add(time.Second))
	m.mu.Lock()
	for m.client.writing {
		m.drained.Wait()
	}
	out := http2.AppendGoAway(m.client.out, m.last, f.code, f.why)
	m.mu.Unlock()
	if m.s.client.write(out) == nil {
		m.s.client.buf.drop()
		m.s.linger()
	}
}

// fromClient takes a frame of the client. The error is a *fatal.
func (m *mux) fromClient(f http2.Frame, p []byte) error {
	switch f.Type {
	case http2.Data:
		return m.requestData(f, p)
	case http2.Headers:
		return m.requestHead(f, p)
	case http2.Reset:
		return m.requestReset(f, p)
	case http2.WindowUpdate:
		return m.requestWindow(f, p)
	case http2.Settings:
		return m.clientSettings(f, p)
	case http2.PushPromise:
		return &fatal{http2.ProtocolError, "push of a client"}
	case http2.Priority:
		if on, ok := f.DependsOn(p); ok && on == f.Stream {
			if st := m.streams[f.Stream]; st != nil {
				return m.offend(st, http2.ProtocolError)
			}
			return &fatal{http2.ProtocolError, "a stream that depends on itself"}
		}
	}
	return nil // GOAWAY too: a client that opens no more streams says nothing new
}

// clientSettings takes what the client wants. What it says of windows holds for what servers may send it, so they hear it.
func (m *mux) clientSettings(f http2.Frame, p []byte) error {
	c := &m.client
	if f.Has(http2.Ack) {
		c.decoder.Agreed()
		return nil
	}
	code := http2.EachSetting(p, func(p http2.Parameter) http2.Code {
		switch p.Setting {
		case http2.HeaderTableSize:
			c.fresh = true
		case http2.InitialWindowSize:
			return m.clientInitial(int64(p.Value))
		}
		return http2.NoError
	})
	if code != http2.NoError {
		return &fatal{code, "settings"}
	}
	c.out = http2.Frame{Type: http2.Settings, Flags: http2.Ack}.Append(c.out)
	c.own += http2.FrameHeader
	return nil
}

func (m *mux) clientInitial(n int64) http2.Code {
	change := n - m.client.initial
	m.client.initial = n
	for _, st := range m.streams {
		h := &st.down
		if h.send += change; h.send > http2.MaxWindow {
			return http2.FlowControlError
		}
		if st.opened {
			h.recv += change
		}
	}
	for _, l := range m.links {
		if l.ready && l.promised != n {
			l.promised = n
			l.unacked++
			l.out = http2.AppendSettings(l.out, http2.Parameter{Setting: http2.InitialWindowSize, Value: uint32(n)})
		}
	}
	for _, st := range m.streams {
		m.pump(st, &st.down)
	}
	return http2.NoError
}

// settings are those of the engine now.
func (m *mux) settings() *Settings { return m.s.settings() }

// limitsFor are the limits of a user's streams with these rates. Those by connection are the connection's.
type limitsFor struct {
	rates  []flow.Rate
	user   string
	limits *limits
}
