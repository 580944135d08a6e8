package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
)

// framer is a client, or a server, that sends what frames it likes.
type framer struct {
	*xhttp2.Framer
	conn net.Conn
	t    testing.TB
	out  bytes.Buffer
	hp   *hpack.Encoder
	mute bool // somebody else writes: nothing is acknowledged
}

func newFramer(t testing.TB, conn net.Conn) *framer {
	f := &framer{Framer: xhttp2.NewFramer(conn, conn), conn: conn, t: t}
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.hp = hpack.NewEncoder(&f.out)
	f.hp.SetMaxDynamicTableSizeLimit(0)
	return f
}

// framer makes a client that has said its preface and settings.
func (r *rig) framer(settings ...xhttp2.Setting) *framer {
	r.t.Helper()
	f := newFramer(r.t, r.client().TCPConn)
	_, err := io.WriteString(f.conn, http2.Preface)
	must(r.t, err)
	must(r.t, f.WriteSettings(settings...))
	return f
}

func (f *framer) block(pairs ...string) []byte {
	f.out.Reset()
	for i := 0; i < len(pairs); i += 2 {
		must(f.t, f.hp.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	return bytes.Clone(f.out.Bytes())
}

func (f *framer) get(path string, more ...string) []byte {
	return f.block(append([]string{":method", "POST", ":scheme", "http", ":authority", "h", ":path", path}, more...)...)
}

func (f *framer) open(stream uint32, end bool, block []byte) {
	f.t.Helper()
	must(f.t, f.begin(stream, end, block))
}

// begin is open for who may be hung up on meanwhile, and for goroutines beside the test's.
func (f *framer) begin(stream uint32, end bool, block []byte) error {
	return f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndStream: end, EndHeaders: true})
}

// until reads frames until one is what is waited for, and returns it. Settings and pings are answered.
func (f *framer) until(want func(xhttp2.Frame) bool) xhttp2.Frame {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.t.Fatalf("no such frame came: %v", err)
		}
		if want(frame) {
			return frame
		}
		if s, ok := frame.(*xhttp2.SettingsFrame); ok && !s.IsAck() && !f.mute {
			must(f.t, f.WriteSettingsAck())
		}
	}
}

// goneWith reads until the connection is ended with a code.
func (f *framer) goneWith(code xhttp2.ErrCode) {
	f.t.Helper()
	g := f.until(func(frame xhttp2.Frame) bool { return frame.Header().Type == xhttp2.FrameGoAway }).(*xhttp2.GoAwayFrame)
	if g.ErrCode != code {
		f.t.Errorf("GOAWAY says %v (%s), want %v", g.ErrCode, g.DebugData(), code)
	}
	for {
		if _, err := f.ReadFrame(); err != nil {
			if isTimeout(err) {
				f.t.Error("the connection stays open")
			}
			return
		}
	}
}

func (f *framer) reset(stream uint32, code xhttp2.ErrCode) {
	f.t.Helper()
	r := f.until(func(frame xhttp2.Frame) bool {
		return frame.Header().Type == xhttp2.FrameRSTStream && frame.Header().StreamID == stream
	}).(*xhttp2.RSTStreamFrame)
	if r.ErrCode != code {
		f.t.Errorf("stream %d is reset with %v, want %v", stream, r.ErrCode, code)
	}
}

// answer reads the head of a stream's answer.
func (f *framer) answer(stream uint32, status string) *xhttp2.MetaHeadersFrame {
	f.t.Helper()
	h := f.until(func(frame xhttp2.Frame) bool {
		return frame.Header().Type == xhttp2.FrameHeaders && frame.Header().StreamID == stream
	}).(*xhttp2.MetaHeadersFrame)
	if h.PseudoValue("status") != status {
		f.t.Errorf("stream %d: status %s, want %s", stream, h.PseudoValue("status"), status)
	}
	return h
}

// TestHostileClients: what abuses the protocol ends the connection, and nothing of it is left.
func TestHostileClients(t *testing.T) {
	hang := make(chan struct{})
	addr := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer close(hang)
	const n = 5000 // of frames, more than anybody has to bear
	for name, c := range map[string]struct {
		code xhttp2.ErrCode
		do   func(f *framer) error
	}{
		"rapid reset": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			b := f.get("/")
			for i := range uint32(n) {
				if err := errors.Join(f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndStream: true, EndHeaders: true}), f.WriteRSTStream(2*i+1, xhttp2.ErrCodeCancel)); err != nil {
					return err
				}
			}
			return nil
		}},
		"resets that we are made to send": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			b := f.get("/")
			for i := range uint32(n) {
				if err := errors.Join(f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndHeaders: true}), f.WriteRawFrame(xhttp2.FrameWindowUpdate, 0, 2*i+1, make([]byte, 4))); err != nil {
					return err
				}
			}
			return nil
		}},
		"continuations": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			err := f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: f.get("/")})
			for range n {
				err = errors.Join(err, f.WriteContinuation(1, false, nil))
			}
			return err
		}},
		"a head without end": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			err := f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: f.get("/")})
			for range 10 {
				err = errors.Join(err, f.WriteContinuation(1, false, make([]byte, 16000)))
			}
			return err
		}},
		"settings": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			for range n {
				if err := f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1}); err != nil {
					return err
				}
			}
			return nil
		}},
		"pings": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			for range n {
				if err := f.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		}},
		"empty bodies": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			if err := f.begin(1, false, f.get("/")); err != nil {
				return err
			}
			for range n {
				if err := f.WriteData(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		}},
		"padding alone": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			if err := f.begin(1, false, f.get("/")); err != nil {
				return err
			}
			for range n {
				if err := f.WriteDataPadded(1, false, nil, make([]byte, 3)); err != nil {
					return err
				}
			}
			return nil
		}},
		"unknown frames": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			for range n {
				if err := f.WriteRawFrame(0x42, 0, 0, nil); err != nil {
					return err
				}
			}
			return nil
		}},
		"priorities": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			for i := range uint32(n) {
				if err := f.WritePriority(2*i+1, xhttp2.PriorityParam{}); err != nil {
					return err
				}
			}
			return nil
		}},
		"more streams than may be": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			b := f.get("/")
			for i := range uint32(n) {
				if err := f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
			}
			return nil
		}},
		"malformed requests": {xhttp2.ErrCodeEnhanceYourCalm, func(f *framer) error {
			b := f.get("/", "Upper", "case")
			for i := range uint32(n) {
				if err := f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
			}
			return nil
		}},
		"a window that overflows": {xhttp2.ErrCodeFlowControl, func(f *framer) error {
			return errors.Join(f.WriteWindowUpdate(0, 1<<31-1), f.WriteWindowUpdate(0, 1<<31-1))
		}},
		"more than the window": {xhttp2.ErrCodeFlowControl, func(f *framer) error {
			for i := range uint32(400) { // more than is lent, too
				if err := f.begin(2*i+1, false, f.get("/")); err != nil {
					return err
				}
				for range 3 {
					if err := f.WriteData(2*i+1, false, make([]byte, 16384)); err != nil {
						return err
					}
				}
			}
			return nil
		}},
		"a table that we do not have": {xhttp2.ErrCodeCompression, func(f *framer) error {
			return f.begin(1, true, append([]byte{0xbe}, f.get("/")...))
		}},
		"a frame too long": {xhttp2.ErrCodeFrameSize, func(f *framer) error {
			return f.WriteRawFrame(xhttp2.FrameData, 0, 1, make([]byte, 16385))
		}},
		"an even stream": {xhttp2.ErrCodeProtocol, func(f *framer) error { return f.begin(2, true, f.get("/")) }},
		"padding beyond": {xhttp2.ErrCodeProtocol, func(f *framer) error {
			if err := f.begin(1, false, f.get("/")); err != nil {
				return err
			}
			return f.WriteRawFrame(xhttp2.FrameData, 8, 1, []byte{9, 1, 2})
		}},
		"push of a client":     {xhttp2.ErrCodeProtocol, func(f *framer) error { return f.WriteRawFrame(xhttp2.FramePushPromise, 4, 1, make([]byte, 4)) }},
		"settings of a stream": {xhttp2.ErrCodeProtocol, func(f *framer) error { return f.WriteRawFrame(xhttp2.FrameSettings, 0, 1, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, addr, Limits{})
			f := r.framer()
			f.mute = true
			sent := make(chan error, 1)
			go func() { sent <- c.do(f) }()
			f.goneWith(c.code)
			_ = f.conn.Close()
			<-sent // an error: the connection ended before all was said
			eventually(t, func() error {
				if held, open := r.held.Load(), r.Counters().Open; held != 0 || open != 0 {
					return fmt.Errorf("%d bytes are held, %d connections open", held, open)
				}
				return nil
			})
		})
	}
}

// TestStreamErrors: what is wrong with one stream ends that one, and others go on.
func TestStreamErrors(t *testing.T) {
	r := newRig(t, h2cServer(t, named("s")), Limits{})
	f := r.framer()
	id := uint32(1)
	for name, c := range map[string]struct {
		code xhttp2.ErrCode
		do   func()
	}{
		"upper case": {xhttp2.ErrCodeProtocol, func() { f.open(id, true, f.get("/", "X", "y")) }},
		"connection": {xhttp2.ErrCodeProtocol, func() { f.open(id, true, f.get("/", "connection", "close")) }},
		"two hosts":  {xhttp2.ErrCodeProtocol, func() { f.open(id, true, f.get("/", "host", "i")) }},
		"a body too short": {xhttp2.ErrCodeProtocol, func() {
			f.open(id, false, f.get("/", "content-length", "5"))
			must(t, f.WriteData(id, true, []byte("four")))
		}},
		"a body too long": {xhttp2.ErrCodeProtocol, func() {
			f.open(id, false, f.get("/", "content-length", "3"))
			must(t, f.WriteData(id, false, []byte("four")))
		}},
		"bad trailers": {xhttp2.ErrCodeProtocol, func() { f.open(id, false, f.get("/")); f.open(id, true, f.block(":path", "/")) }},
		"no window": {xhttp2.ErrCodeProtocol, func() {
			f.open(id, false, f.get("/"))
			must(t, f.WriteRawFrame(xhttp2.FrameWindowUpdate, 0, id, make([]byte, 4)))
		}},
		"after the end": {xhttp2.ErrCodeStreamClosed, func() {
			f.open(id, false, f.get("/wait", "content-length", "0"))
			must(t, f.WriteData(id, true, nil))
			must(t, f.WriteData(id, true, nil))
		}},
		"on itself": {xhttp2.ErrCodeProtocol, func() {
			must(t, f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.get("/"), EndHeaders: true, EndStream: true, Priority: xhttp2.PriorityParam{StreamDep: id}}))
		}},
	} {
		c.do()
		t.Log(name)
		f.reset(id, c.code)
		id += 2
		f.open(id, true, f.get("/ok"))
		f.answer(id, "200")
		id += 2
	}
	big := f.get("/", "x", strings.Repeat("x", 70000/2))
	must(t, f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: big[:16000], EndStream: true}))
	must(t, f.WriteContinuation(id, true, big[16000:]))
	f.answer(id, "200")
}

// TestZeroWindow: who takes nothing holds up nobody else, and is not sent anything.
func TestZeroWindow(t *testing.T) {
	r := newRig(t, h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(pattern(300000))
	})), Limits{})
	f := r.framer(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
	for i := range uint32(100) {
		f.open(2*i+1, true, f.get("/"))
		f.answer(2*i+1, "200")
	}
	must(t, f.WriteWindowUpdate(0, 1<<30))
	must(t, f.WriteWindowUpdate(51, 1<<30))
	got := 0
	f.until(func(frame xhttp2.Frame) bool {
		d, ok := frame.(*xhttp2.DataFrame)
		if ok && d.StreamID != 51 {
			t.Errorf("a body on stream %d", d.StreamID)
		}
		if ok {
			got += len(d.Data())
		}
		return ok && d.StreamEnded()
	})
	if got != 300000 {
		t.Errorf("%d bytes", got)
	}
	must(t, f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 400000}))
	ended := 0
	f.until(func(frame xhttp2.Frame) bool {
		if d, ok := frame.(*xhttp2.DataFrame); ok && d.StreamEnded() {
			ended++
		}
		return ended == 99
	})
}

// h2Server accepts one HTTP/2 connection after the other and gives each to serve.
func h2Server(t testing.TB, serve func(f *framer)) string {
	return server(t, func(c *client) {
		preface := make([]byte, len(http2.Preface))
		if _, err := io.ReadFull(c.TCPConn, preface); err != nil {
			return
		}
		f := newFramer(t, c.TCPConn)
		if f.WriteSettings() == nil {
			serve(f)
		}
	})
}

// request reads until a stream is opened; 0: the connection ended.
func (f *framer) request() uint32 {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return 0
		}
		switch frame := frame.(type) {
		case *xhttp2.MetaHeadersFrame:
			return frame.StreamID
		case *xhttp2.SettingsFrame:
			if !frame.IsAck() && f.WriteSettingsAck() != nil {
				return 0
			}
		}
	}
}

// TestHostileServers: what a server does wrong ends its streams with an answer, and those of other servers go on.
func TestHostileServers(t *testing.T) {
	for name, do := range map[string]func(f *framer, id uint32) error{
		"push": func(f *framer, id uint32) error {
			return f.WritePushPromise(xhttp2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: f.get("/"), EndHeaders: true})
		},
		"no settings": func(f *framer, id uint32) error { return f.WriteRawFrame(xhttp2.FrameSettings, 0, 0, make([]byte, 5)) },
		"a bad block": func(f *framer, id uint32) error {
			return f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x80}, EndHeaders: true})
		},
		"no status": func(f *framer, id uint32) error {
			return f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.block("x", "y"), EndHeaders: true, EndStream: true})
		},
		"101": func(f *framer, id uint32) error {
			return f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":status", "101"), EndHeaders: true})
		},
		"a body first": func(f *framer, id uint32) error { return f.WriteData(id, true, []byte("x")) },
		"a wrong stream": func(f *framer, id uint32) error {
			return f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id + 2, BlockFragment: f.block(":status", "200"), EndHeaders: true})
		},
		"pings": func(f *framer, id uint32) error {
			for range 5000 {
				if err := f.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		},
		"hints without end": func(f *framer, id uint32) error {
			for range 100 {
				if err := f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":status", "103"), EndHeaders: true}); err != nil {
					return err
				}
			}
			return nil
		},
		"the end": func(f *framer, id uint32) error { return f.conn.Close() },
		"no HTTP": func(f *framer, id uint32) error {
			_, err := io.WriteString(f.conn, strings.Repeat("HTTP/1.1 200 OK\r\n\r\n", 10))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "192.0.2.1:80", Limits{})
			r.dialer.to["bad"], r.dialer.to["good"] = h2Server(t, func(f *framer) {
				if id := f.request(); id != 0 && do(f, id) == nil {
					_ = f.request() // until the interceptor ends it
				}
			}), h2cServer(t, named("good"))
			r.rules.set(func(c flow.Context) (flow.Decision, error) { return endpoint(strings.TrimPrefix(c.Path, "/")), nil })
			f := r.framer()
			f.open(1, true, f.get("/bad"))
			f.answer(1, map[bool]string{true: "103", false: "502"}[name == "hints without end"])
			f.open(3, true, f.get("/good"))
			f.answer(3, "200")
		})
	}
}

// TestGoAway: streams that a server did not take may be sent again, and go to a new connection.
func TestGoAway(t *testing.T) {
	first := true
	addr := h2Server(t, func(f *framer) {
		if id := f.request(); first && id != 0 {
			first = false
			if f.request() != 0 {
				_ = f.WriteGoAway(1, xhttp2.ErrCodeNo, nil)
				f.answers(id)
			}
			return
		}
		f.answers(1)
		for id := f.request(); id != 0; id = f.request() {
			f.answers(id)
		}
	})
	r := newRig(t, addr, Limits{})
	r.rules.remember.Store(true) // so that streams keep their order
	f := r.framer()
	f.open(1, true, f.get("/"))
	f.open(3, true, f.get("/"))
	f.reset(3, xhttp2.ErrCodeRefusedStream)
	f.answer(1, "204")
	f.open(5, true, f.get("/"))
	f.answer(5, "204")
}

func (f *framer) answers(id uint32) {
	_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":status", "204"), EndHeaders: true, EndStream: true}) // it may be gone
}

// TestNoStreams: a server that lets nobody open a stream and hangs up is not asked for ever.
func TestNoStreams(t *testing.T) {
	r := newRig(t, server(t, func(c *client) {
		f := newFramer(t, c.TCPConn)
		_, _ = io.ReadFull(c.TCPConn, make([]byte, len(http2.Preface)))
		_ = f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 0}) // it may be gone
		_, _ = f.ReadFrame()
	}), Limits{})
	r.rules.remember.Store(true)
	f := r.framer()
	for i := range uint32(200) { // more than are sent before its settings are known
		f.open(2*i+1, true, f.get("/"))
	}
	for seen := map[uint32]bool{}; len(seen) < 200; {
		seen[f.until(func(frame xhttp2.Frame) bool { return frame.Header().Type == xhttp2.FrameHeaders }).Header().StreamID] = true
	}
	if n := r.dialer.count(); n > 20 {
		t.Errorf("%d connections", n)
	}
}

// TestSlowHead: a block that is not ended in time ends the connection.
func TestSlowHead(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{Head: 2 * time.Second}) // in which a busy machine has said its preface
	f := r.framer()
	_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: f.get("/")}) // on a busy machine it is too late with it already
	for {
		if _, err := f.ReadFrame(); err != nil {
			if isTimeout(err) {
				t.Error("the connection stays open")
			}
			return
		}
	}
}
