package intercept

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// onlySession is the only connection there is, and its only way, once it is in a phase.
func (r *rig) onlySession(in phase) (s *session, up *upstream) {
	r.t.Helper()
	eventually(r.t, func() error {
		r.Engine.mu.Lock()
		defer r.Engine.mu.Unlock()
		for s = range r.sessions {
		}
		if s == nil {
			return errors.New("no connection")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.phase != in || len(s.ups) != 1 {
			return fmt.Errorf("phase %d, %d ways", s.phase, len(s.ups))
		}
		up = s.ups[0]
		return nil
	})
	return s, up
}

// TestIdleEndAndRequest: a request that comes at the moment at which its idle connection's server ends is served by a new one, all of it.
func TestIdleEndAndRequest(t *testing.T) {
	end := make(chan struct{})
	var connections atomic.Int32
	addr := server(t, func(c *client) {
		first := connections.Add(1) == 1
		for {
			req, body := c.request()
			if req == nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			if first {
				<-end
				return
			}
		}
	})
	r := newRig(t, addr, Limits{})
	c := r.client()
	c.want("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na", "POST", 200, "a")
	s, up := r.onlySession(idle)
	s.mu.Lock() // who tells of the end waits here, and behind it who has read the request
	close(end)
	eventually(t, func() error {
		if !up.hung.Load() {
			return errors.New("the server's end is not known")
		}
		return nil
	})
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
	eventually(t, func() error {
		if n := s.client.option(t, func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }); n > 0 {
			return fmt.Errorf("%d bytes are not read", n)
		}
		return nil
	})
	s.mu.Unlock()
	c.want("abc", "POST", 200, "abc")
}

// option reads something of a socket.
func (s *side) option(t testing.TB, get func(fd int) (int, error)) (value int) {
	t.Helper()
	var failed error
	err := s.raw.Control(func(fd uintptr) { value, failed = get(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return value
}

// TestServerIsMissed: a server that vanishes is found out by the kernel, where an answer is long in coming or nothing is asked: what the
// application has set on its own socket tells it of nothing beyond the interceptor.
func TestServerIsMissed(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, server(t, func(c *client) {
		for {
			if req, _ := c.request(); req == nil {
				return
			}
			<-release
			c.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}), Limits{})
	c := r.client()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	_, up := r.onlySession(waiting)
	eventually(t, func() error {
		idle := func(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) }
		if after := up.option(t, idle); after != 60 { // the test's dialer has 15 s, by Go's default
			return fmt.Errorf("the server is asked after %d s", after)
		}
		return nil
	})
	close(release)
	c.response("GET")
}
