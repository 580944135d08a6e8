package intercept

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"forefend.dev/forefend/netns/flow"
)

// only keeps connections by a tunnel, and no others.
func only(tunnel string) func(string) (bool, <-chan struct{}) {
	return func(t string) (bool, <-chan struct{}) { return t == tunnel, nil }
}

// TestKeptIsMoved: once new connections are led elsewhere, the next request on a connection goes there, too, and the old connection ends.
func TestKeptIsMoved(t *testing.T) {
	gone := make(chan struct{})
	a := server(t, func(c *client) {
		defer close(gone)
		for {
			req, _ := c.request()
			if req == nil {
				return
			}
			c.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
		}
	})
	b := echo(t, "b")
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("x"), nil })
	r.dialer.by("x", a, "one", only("one"))
	c := r.client()
	for range 3 {
		c.want("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", 200, "a")
	}
	r.dialer.by("x", b, "two", only("two"))
	for range 3 {
		c.want("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", "POST", 200, "b POST /p hi")
	}
	<-gone
	if n := r.dialer.count(); n != 2 {
		t.Errorf("%d connections to servers, want 2", n)
	}
	if flows := r.Flows(); len(flows) != 1 || flows[0].Tunnel != "two" || flows[0].Requests != 3 {
		t.Errorf("%+v", flows)
	}
}

// TestKeptWaitsForAnAnswer: a request waits for what is asked about its way, and not for long.
func TestKeptWaitsForAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		answer bool
		want   string
	}{"answered": {true, "b GET / "}, "not answered": {false, "a GET / "}} {
		t.Run(name, func(t *testing.T) {
			a, b := echo(t, "a"), echo(t, "b")
			r := newRig(t, "192.0.2.1:80", Limits{})
			r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("x"), nil })
			r.dialer.by("x", a, "one", nil)
			cl := r.client()
			cl.want("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", 200, "a GET / ")
			asked, first := make(chan struct{}), true
			if c.answer { // by the time that it is waited for: a busy machine may be late
				close(asked)
			}
			r.dialer.by("x", b, "two", func(tunnel string) (bool, <-chan struct{}) {
				if first {
					first = false
					return true, asked
				}
				return tunnel == "two", nil
			})
			cl.want("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", 200, c.want)
		})
	}
}

// TestStreamsAreMoved: new streams go where new connections go. One that is under way ends where it is, and with it the old connection.
func TestStreamsAreMoved(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("x"), nil })
	r.dialer.by("x", h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = fmt.Fprint(w, "a")
		if req.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			<-release
			_, _ = fmt.Fprint(w, strings.Repeat("z", 100000))
		}
	})), "one", only("one"))
	c := r.h2cClient()
	ask(t, c, "GET", "http://x/", "", 200, "a")
	slow, err := c.Get("http://x/slow")
	must(t, err)
	defer slow.Body.Close()
	asked := make(chan struct{})
	close(asked)
	first := true
	r.dialer.by("x", h2cServer(t, named("b")), "two", func(tunnel string) (bool, <-chan struct{}) {
		if first {
			first = false
			return true, asked
		}
		return tunnel == "two", nil
	})
	for range 3 {
		ask(t, c, "POST", "http://x/p", "hi", 200, "b POST /p hi")
	}
	if flows := r.Flows(); len(flows) != 2 || flows[0].Tunnel != "one" || flows[1].Tunnel != "two" {
		t.Errorf("%+v", flows)
	}
	close(release)
	if body, err := io.ReadAll(slow.Body); err != nil || len(body) != 100001 {
		t.Errorf("the answer that was under way: %d bytes, %v", len(body), err)
	}
	eventually(t, func() error {
		if flows := r.Flows(); len(flows) != 1 || flows[0].Tunnel != "two" {
			return fmt.Errorf("%+v", flows)
		}
		return nil
	})
	if n := r.dialer.count(); n != 2 {
		t.Errorf("%d connections to servers, want 2", n)
	}
}

// TestKeptFlapping: however often new connections are led elsewhere, no request is lost, of HTTP/1 and of HTTP/2.
func TestKeptFlapping(t *testing.T) {
	one, two := echo(t, "s"), echo(t, "s")
	mux1, mux2 := h2cServer(t, named("s")), h2cServer(t, named("s"))
	for name, servers := range map[string][]string{"HTTP/1": {one, two}, "HTTP/2": {mux1, mux2}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "192.0.2.1:80", Limits{})
			r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("x"), nil })
			turn := 0
			lead := func() {
				r.dialer.by("x", servers[turn%2], fmt.Sprint(turn%2), only(fmt.Sprint(turn%2)))
				turn++
			}
			lead()
			var clients sync.WaitGroup
			c := r.h2cClient()
			for range 8 {
				clients.Go(func() {
					if name == "HTTP/2" {
						for range 200 {
							ask(t, c, "POST", "http://x/p", "hi", 200, "s POST /p hi")
						}
						return
					}
					c := r.client()
					for range 200 {
						c.want("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", "POST", 200, "s POST /p hi")
					}
				})
			}
			done := make(chan struct{})
			go func() { clients.Wait(); close(done) }()
			for {
				select {
				case <-done:
					if n := r.dialer.count(); n < 3 {
						t.Errorf("%d connections to servers: nothing was moved", n)
					}
					return
				default:
					lead()
				}
			}
		})
	}
}
