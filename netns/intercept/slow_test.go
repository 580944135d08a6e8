package intercept

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
)

// TestSlowServers: a frame, or a block of several, that a server begins has to be complete in time, or its connection ends: it is held
// here meanwhile. The streams that it carried have an answer then, and the client's connection goes on.
func TestSlowServers(t *testing.T) {
	for name, part := range map[string]func(f *framer, id uint32) []byte{
		"half a head of a frame": func(*framer, uint32) []byte { return []byte{0, 0} },
		"half a frame": func(f *framer, id uint32) []byte {
			return http2.AppendBlock(nil, id, nil, f.block(":status", "200", "x", strings.Repeat("x", 1000)), true)[:500]
		},
		"half a block": func(f *framer, id uint32) []byte {
			b := http2.AppendBlock(nil, id, nil, f.block(":status", "200"), true)
			b[4] &^= byte(http2.EndHeaders)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := h2Server(t, func(f *framer) {
				if id := f.request(); id != 0 {
					_, _ = f.conn.Write(part(f, id)) // its end is noticed by who reads
				}
				for f.request() != 0 {
				}
			})
			r := newRig(t, addr, Limits{Head: 2 * time.Second}) // in which a busy machine has said its preface
			f := r.framer()
			f.open(1, true, f.get("/"))
			f.answer(1, "502")
			if n := r.Counters().Malformed["h2-response-a frame that is not complete in time"]; n != 1 {
				t.Errorf("counted %v", r.Counters().Malformed)
			}
			f.ping()
		})
	}
}

// TestSlowMessages: a query by TCP, or an answer, that has begun has to be complete in time, or its connection ends.
func TestSlowMessages(t *testing.T) {
	silent := server(t, func(c *client) { _, _ = io.Copy(io.Discard, c) })
	slow := server(t, func(c *client) {
		if _, err := io.ReadFull(c.r, make([]byte, 2)); err == nil {
			_, _ = c.Write([]byte{255, 255, 0}) // its end is noticed by who reads
		}
		_, _ = io.Copy(io.Discard, c)
	})
	for name, c := range map[string]struct{ addr, says string }{
		"half a query":   {silent, string(framed(question(t))[:20])},
		"half an answer": {slow, string(framed(question(t)))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "192.0.2.1:53", Limits{Head: 2 * time.Second})
			r.dialer.to[""] = c.addr
			cl := r.client()
			cl.send(c.says)
			if got, _ := cl.rest(); got != "" {
				t.Errorf("the client heard %q", got)
			}
		})
	}
}

// TestPausesBetweenMessages: the limit of time that a message had is none for what comes after it.
func TestPausesBetweenMessages(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	from, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer from.Close()
	to, err := l.Accept()
	must(t, err)
	defer to.Close()
	var s side
	must(t, s.init(to.(*net.TCPConn)))
	defer s.buf.drop()
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{Head: time.Second})
	in := tcpMessages{side: &s, limits: &limits}
	b := framed(question(t))
	_, err = from.Write(b[:20])
	must(t, err)
	must(t, s.fill())
	_, err = from.Write(b[20:])
	must(t, err)
	if got, err := in.next(); err != nil || string(got) != string(b[2:]) {
		t.Fatalf("%x, %v", got, err)
	}
	<-time.After(limits.Load().Head)
	_, err = from.Write(b)
	must(t, err)
	if got, err := in.next(); err != nil || string(got) != string(b[2:]) {
		t.Errorf("%x, %v", got, err)
	}
	in.end(past)
	if _, err := in.next(); !isTimeout(err) {
		t.Errorf("one that has ended is read: %v", err)
	}
}

// TestSlowClientIsNoSlowServer: while a client does not read its answers servers are not read, and the time for what they have begun to say does not
// pass. A machine that is too busy to fill the way to the client well within the time has twice as much.
func TestSlowClientIsNoSlowServer(t *testing.T) {
	for head, filled := 5*time.Second, false; !filled && !t.Failed(); head *= 2 {
		if head > patience {
			t.Fatal("the way to the client is never full in time")
		}
		t.Run(head.String(), func(t *testing.T) { filled = slowClient(t, head) })
	}
}

// slowClient tells whether the way to the client was full in time.
func slowClient(t *testing.T, head time.Duration) bool {
	begun, stuck, waited := make(chan struct{}), make(chan struct{}), make(chan struct{})
	r := newRig(t, "192.0.2.1:80", Limits{Head: head})
	flood := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for b := make([]byte, 64<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	floods := []string{"one", "two", "three"} // each fills the window of a connection, which together are more than is kept for a client
	for _, name := range floods {
		r.dialer.to[name] = flood
	}
	r.dialer.to["slow"] = h2Server(t, func(f *framer) {
		id := f.request()
		b := http2.AppendBlock(nil, id, nil, f.block(":status", "200"), true)
		ping := []byte{0, 0, 8, byte(xhttp2.FramePing), 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
		_, _ = f.conn.Write(append(ping, b[:4]...)) // its end is noticed by who reads
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if p, ok := frame.(*xhttp2.PingFrame); ok && p.IsAck() {
				break
			}
		}
		close(begun)
		<-stuck
		_, _ = f.conn.Write(b[4:5])
		<-waited
		_, _ = f.conn.Write(b[5:])
		for f.request() != 0 {
		}
	})
	r.rules.set(func(c flow.Context) (flow.Decision, error) { return endpoint(c.Path[1:]), nil })
	f := r.framer(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 30})
	must(t, f.WriteWindowUpdate(0, 1<<30))
	began := time.Now()
	f.open(1, true, f.get("/slow"))
	<-begun
	for i, name := range floods {
		f.open(uint32(3+2*i), true, f.get("/"+name))
	}
	m, full := r.flows.all()[0].carries(), 0
	eventually(t, func() error { // and stays so
		m.mu.Lock()
		defer m.mu.Unlock()
		if full++; len(m.client.out) <= highWater {
			full = 0
		}
		if full < 20 {
			return fmt.Errorf("%d bytes wait for the client", len(m.client.out))
		}
		return nil
	})
	close(stuck)
	if time.Since(began) > head/2 {
		close(waited)
		return false
	}
	<-time.After(head + head/4)
	close(waited)
	f.answer(1, "200")
	return true
}
