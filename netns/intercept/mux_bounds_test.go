package intercept

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
)

// ping sends a PING and waits for its answer: what came before it was taken.
func (f *framer) ping() {
	f.t.Helper()
	must(f.t, f.WritePing(false, [8]byte{1}))
	f.until(func(frame xhttp2.Frame) bool {
		if g, ok := frame.(*xhttp2.GoAwayFrame); ok {
			f.t.Fatalf("GOAWAY says %v (%s)", g.ErrCode, g.DebugData())
		}
		p, ok := frame.(*xhttp2.PingFrame)
		return ok && p.IsAck()
	})
}

// large is a head of so many bytes, in frames.
func (f *framer) large(stream uint32, size int, end bool) []byte {
	block := f.get("/", "x", "y")
	for len(block) < size {
		block = http2.AppendField(block, "x-large", strings.Repeat("x", min(size-len(block), 4000)))
	}
	return http2.AppendBlock(nil, stream, nil, block, end)
}

// TestManyDenied: a client whose calls are all denied at once, for a long reason, hears so of each, and keeps its connection.
func TestManyDenied(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
	r.rules.remember.Store(true)
	r.rules.set(func(flow.Context) (flow.Decision, error) { return deny("none", strings.Repeat("long ", 200)), nil })
	f := r.framer()
	const n = 1000
	var all []byte
	block := f.get("/a/B", "content-type", "application/grpc")
	for i := range uint32(n) {
		all = http2.AppendBlock(all, 2*i+1, nil, block, true)
	}
	sent := make(chan error, 1)
	go func() { _, err := f.conn.Write(all); sent <- err }()
	f.mute = true
	answered := 0
	f.until(func(frame xhttp2.Frame) bool {
		if g, ok := frame.(*xhttp2.GoAwayFrame); ok {
			t.Fatalf("after %d answers GOAWAY says %v (%s)", answered, g.ErrCode, g.DebugData())
		}
		if frame.Header().Type == xhttp2.FrameHeaders {
			answered++
		}
		return answered == n
	})
	must(t, <-sent)
}

// TestStreamsAllowed: how many streams a server takes holds until it says something else, whatever else it says.
func TestStreamsAllowed(t *testing.T) {
	const allowed = 100
	processed, opened := make(chan struct{}), make(chan int, 1)
	r := newRig(t, server(t, func(c *client) {
		f := newFramer(t, c.TCPConn)
		if _, err := io.ReadFull(c.TCPConn, make([]byte, len(http2.Preface))); err != nil {
			return
		}
		if errors.Join(f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: allowed}), f.WriteSettings()) != nil {
			return
		}
		f.answers(f.request())
		<-processed
		_ = f.WritePing(false, [8]byte{})
		n := 0
		f.next(func(frame xhttp2.Frame) bool {
			if frame.Header().Type == xhttp2.FrameHeaders {
				n++
			}
			p, ok := frame.(*xhttp2.PingFrame)
			return ok && p.IsAck()
		})
		opened <- n
		f.request()
	}), Limits{FirstByte: patience})
	r.rules.remember.Store(true)
	f := r.framer()
	f.open(1, true, f.get("/"))
	f.answer(1, "204")
	for i := range uint32(allowed + 50) {
		f.open(2*i+3, true, f.get("/"))
	}
	f.ping()
	close(processed)
	select {
	case n := <-opened:
		if n != allowed {
			t.Errorf("%d streams are open at a server that takes %d", n, allowed)
		}
	case <-time.After(patience):
		t.Error("the server heard nothing")
	}
}

// TestConnectBeforeSettings: whether a server takes an extended CONNECT is known once its settings are there, not before.
func TestConnectBeforeSettings(t *testing.T) {
	r := newRig(t, server(t, func(c *client) {
		f := newFramer(t, c.TCPConn)
		if _, err := io.ReadFull(c.TCPConn, make([]byte, len(http2.Preface))); err != nil {
			return
		}
		for settings := 0; settings < 1; { // it hears before it speaks
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if _, ok := frame.(*xhttp2.SettingsFrame); ok {
				settings++
			}
		}
		if errors.Join(f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingEnableConnectProtocol, Val: 1}), f.WriteSettingsAck()) == nil {
			f.head(f.request(), "200")
			f.request()
		}
	}), Limits{FirstByte: patience})
	f := r.framer()
	f.open(1, false, f.block(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "h", ":path", "/"))
	f.answer(1, "200")
}

// TestServerThatReadsNothing: heads for a server that takes nothing do not pile up, whatever the client does with its streams.
func TestServerThatReadsNothing(t *testing.T) {
	done := make(chan struct{})
	r := newRig(t, server(t, func(c *client) {
		if newFramer(t, c.TCPConn).WriteSettings() == nil {
			<-done
		}
	}), Limits{FirstByte: patience})
	defer close(done)
	r.rules.remember.Store(true)
	f := r.framer()
	_ = f.conn.SetDeadline(time.Now().Add(10 * patience))
	for i := range uint32(900) { // 54 MB; more than 1000 resets would end the connection
		_, err := f.conn.Write(http2.AppendReset(f.large(2*i+1, 60000, true), 2*i+1, http2.Cancel))
		must(t, err)
	}
	eventually(t, func() error {
		if n := r.dialer.count(); n < 2 {
			return fmt.Errorf("%d connections to a server that took nothing", n)
		}
		return nil
	})
}

// TestHeadsHeld: heads and trailers that wait count among what all connections hold.
func TestHeadsHeld(t *testing.T) {
	for _, trailers := range []bool{false, true} {
		t.Run(fmt.Sprint("trailers=", trailers), func(t *testing.T) {
			gate := make(chan struct{})
			decide := sync.OnceFunc(func() { close(gate) })
			defer decide()
			r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
			r.rules.set(func(flow.Context) (flow.Decision, error) { <-gate; return deny("none", ""), nil })
			const others = maxHeld - 100<<10
			r.held.Add(others)
			f := r.framer()
			for i := range uint32(3) {
				if trailers {
					f.open(2*i+1, false, f.get("/"))
					block := http2.AppendField(nil, "x-large", strings.Repeat("x", 50000))
					_, err := f.conn.Write(http2.AppendBlock(nil, 2*i+1, nil, block, true))
					must(t, err)
				} else {
					_, err := f.conn.Write(f.large(2*i+1, 50000, true))
					must(t, err)
				}
			}
			f.goneWith(xhttp2.ErrCodeEnhanceYourCalm)
			decide()
			eventually(t, func() error {
				if n := r.held.Load(); n != others {
					return fmt.Errorf("%d bytes are held", n-others)
				}
				return nil
			})
		})
	}
}

// TestTricklingFrame: a frame has to be complete in time, however often a part of it comes.
func TestTricklingFrame(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{Head: 2 * time.Second}) // in which a busy machine has said its preface
	f := r.framer()
	f.ping()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := f.ReadFrame(); err != nil {
				if isTimeout(err) {
					t.Error("the connection stays open")
				}
				return
			}
		}
	}()
	b := f.large(1, 16000, true)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(b); i++ {
		select {
		case <-tick.C:
			_, _ = f.conn.Write(b[i : i+1]) // its end is noticed by who reads
		case <-ended:
			return
		}
	}
}

// TestTailForALeavingServer: what a client sends last for a server that takes no more streams reaches it before the connection ends.
func TestTailForALeavingServer(t *testing.T) {
	got := make(chan int, 1)
	r := newRig(t, h2Server(t, func(f *framer) {
		id := f.request()
		_ = f.WriteGoAway(id, xhttp2.ErrCodeNo, nil)
		f.head(id, "200")
		_ = f.WriteData(id, true, nil)
		n := 0
		if !f.next(func(frame xhttp2.Frame) bool {
			d, ok := frame.(*xhttp2.DataFrame)
			if ok {
				n += len(d.Data())
			}
			return ok && d.StreamEnded()
		}) {
			n = -1
		}
		got <- n
	}), Limits{FirstByte: patience})
	f := r.framer()
	f.open(1, false, f.get("/"))
	if n := f.answer(1, "200"); n.StreamEnded() || f.body(1) != 0 {
		t.Error("the answer has a body")
	}
	must(t, f.WriteData(1, true, make([]byte, 1000)))
	select {
	case n := <-got:
		if n != 1000 {
			t.Errorf("the server had %d bytes of 1000", n)
		}
	case <-time.After(patience):
		t.Error("the server hears neither the rest nor the end")
	}
}

// TestRefusedStreams: what follows a head that was refused is no mistake, it was under way.
func TestRefusedStreams(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
	r.rules.set(func(flow.Context) (flow.Decision, error) { <-gate; return deny("none", ""), nil })
	defer close(gate)
	f := r.framer()
	var all []byte
	for i := range uint32(maxStreams) {
		all = http2.AppendBlock(all, 2*i+1, nil, f.get("/"), true)
	}
	_, err := f.conn.Write(all)
	must(t, err)
	const id = 2*maxStreams + 1
	f.open(id, false, f.get("/"))
	must(t, f.WriteData(id, false, []byte("x")))
	f.open(id, true, f.block("trailer", "x"))
	f.reset(id, xhttp2.ErrCodeRefusedStream)
	f.ping()
}
