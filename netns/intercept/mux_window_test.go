package intercept

import (
	"fmt"
	"net"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"forefend.dev/forefend/netns/intercept/http2"
)

// next reads until a frame is what is waited for; false: the connection ended. Settings are acknowledged before it.
func (f *framer) next(want func(xhttp2.Frame) bool) bool {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return false
		}
		if want(frame) {
			return true
		}
		if s, ok := frame.(*xhttp2.SettingsFrame); ok && !s.IsAck() && f.WriteSettingsAck() != nil {
			return false
		}
	}
}

// head sends the head of an answer.
func (f *framer) head(id uint32, status string, more ...string) {
	_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(append([]string{":status", status}, more...)...), EndHeaders: true}) // it may be gone
}

// body reads a stream's body to its end, and returns how many bytes it has.
func (f *framer) body(stream uint32) (n int) {
	f.t.Helper()
	f.until(func(frame xhttp2.Frame) bool {
		if r, ok := frame.(*xhttp2.RSTStreamFrame); ok && r.StreamID == stream {
			f.t.Fatalf("stream %d is reset with %v after %d bytes", stream, r.ErrCode, n)
		}
		d, ok := frame.(*xhttp2.DataFrame)
		if ok && d.StreamID == stream {
			n += len(d.Data())
		}
		return ok && d.StreamID == stream && d.StreamEnded()
	})
	return n
}

// TestEndWithoutWindow: a server may end a body by a frame without bytes where it has no window, a negative one as well (RFC 9113, 6.9.1).
func TestEndWithoutWindow(t *testing.T) {
	r := newRig(t, h2Server(t, func(f *framer) {
		id := f.request()
		f.head(id, "200")
		_ = f.WriteData(id, false, make([]byte, 1000))
		if f.next(func(frame xhttp2.Frame) bool {
			s, ok := frame.(*xhttp2.SettingsFrame)
			n, has := uint32(0), false
			if ok {
				n, has = s.Value(xhttp2.SettingInitialWindowSize)
			}
			return has && n == 0
		}) && f.WriteSettingsAck() == nil && f.WriteData(id, true, nil) == nil {
			f.request()
		}
	}), Limits{FirstByte: patience})
	f := r.framer()
	f.open(1, true, f.get("/"))
	f.answer(1, "200")
	f.until(func(frame xhttp2.Frame) bool { return frame.Header().Type == xhttp2.FrameData })
	must(t, f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}))
	if n := f.body(1); n != 0 {
		t.Errorf("%d more bytes", n)
	}
}

// TestPaddedAnswers: padding counts in a server's window, and the client, which sees none of it, gives nothing back for it.
func TestPaddedAnswers(t *testing.T) {
	const frames, size = 2000, 1 + 1 + 255
	r := newRig(t, h2Server(t, func(f *framer) {
		id := f.request()
		f.head(id, "200")
		window := http2.DefaultWindow
		for n := 1; n <= frames; n++ {
			for window < size {
				if !f.next(func(frame xhttp2.Frame) bool {
					w, ok := frame.(*xhttp2.WindowUpdateFrame)
					if ok = ok && w.StreamID == id; ok {
						window += int(w.Increment)
					}
					return ok
				}) {
					return
				}
			}
			window -= size
			if f.WriteDataPadded(id, n == frames, []byte("x"), make([]byte, 255)) != nil {
				return
			}
		}
		f.request()
	}), Limits{FirstByte: patience})
	f := r.framer()
	f.open(1, true, f.get("/"))
	f.answer(1, "200")
	if n := f.body(1); n != frames {
		t.Errorf("%d bytes, want %d", n, frames)
	}
}

// TestBodyOfAnEndedLink: what a client goes on sending for a server that has answered and is gone is given back to it in the end.
func TestBodyOfAnEndedLink(t *testing.T) {
	r := newRig(t, h2Server(t, func(f *framer) {
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if h, ok := frame.(*xhttp2.MetaHeadersFrame); ok {
				f.head(h.StreamID, "200")
				_ = f.WriteData(h.StreamID, true, make([]byte, 10)) // it has not acknowledged the window yet
				_ = f.conn.(*net.TCPConn).CloseWrite()
			}
		}
	}), Limits{FirstByte: patience})
	f := r.framer(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 5})
	f.open(1, false, f.get("/"))
	f.answer(1, "200")
	eventually(t, func() error { // the link has ended
		if n := len(r.Flows()); n > 0 {
			return fmt.Errorf("%d flows", n)
		}
		return nil
	})
	for range 3 {
		must(t, f.WriteData(1, false, make([]byte, 16384)))
	}
	must(t, f.WriteWindowUpdate(1, 100))
	if n := f.body(1); n > 10 {
		t.Errorf("%d bytes", n)
	}
	f.reset(1, xhttp2.ErrCodeNo)
	eventually(t, func() error {
		if n := r.held.Load(); n > 0 {
			return fmt.Errorf("%d bytes are held", n)
		}
		return nil
	})
}
