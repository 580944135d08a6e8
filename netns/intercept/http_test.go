package intercept

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http1"
)

const get = "GET %s HTTP/1.1\r\nHost: Example.COM:80\r\n\r\n"

// TestTwoTunnels: the requests of one connection go the ways that each of them demands.
func TestTwoTunnels(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["a"], r.dialer.to["b"] = echo(t, "a"), echo(t, "b")
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Path == "/denied" {
			return deny("no-such-path", "test"), nil
		}
		if strings.HasPrefix(c.Path, "/b") {
			d := endpoint("b")
			d.RuleVersion = "13"
			return d, nil
		}
		return endpoint("a"), nil
	})
	c := r.client()
	for range 3 {
		c.want(fmt.Sprintf(get, "/a"), "GET", 200, "a GET /a ")
		c.want(fmt.Sprintf(get, "/b?q=1"), "GET", 200, "b GET /b?q=1 ")
		c.want("POST /b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello", "POST", 200, "b POST /b hello")
		c.send(fmt.Sprintf(get, "/denied"))
		if resp, body := c.response("GET"); resp.StatusCode != 403 || !strings.Contains(body, "no-such-path") {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
		c.want("POST /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n", "POST", 200, "a POST /a abc")
	}
	if n := r.dialer.count(); n != 2 {
		t.Errorf("%d connections to servers, want 2", n)
	}
	flows := r.Flows()
	if len(flows) != 2 || flows[0].Tunnel != "a" || flows[1].Requests != 6 || flows[1].Context.Host != "example.com" || !flows[0].Verified || flows[1].Sent == 0 || flows[1].Received == 0 ||
		flows[0].RuleVersion != "" || flows[1].RuleVersion != "13" {
		t.Errorf("flows: %+v", flows)
	}
	for _, seen := range r.rules.contexts() {
		if seen.Host != "example.com" || seen.Protocol != flow.HTTP {
			t.Errorf("context %+v", seen)
		}
	}
	if got := r.Counters(); got.Requests != 15 || got.Denied != 3 || got.Connections != 1 || got.Open != 1 {
		t.Errorf("%+v", got)
	}
}

// TestPipelining: requests that were sent together are answered in order, whichever way they go.
func TestPipelining(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["a"], r.dialer.to["b"] = echo(t, "a"), echo(t, "b")
	r.rules.set(func(c flow.Context) (flow.Decision, error) { return endpoint(c.Path[1:2]), nil })
	c := r.client()
	var all, want bytes.Buffer
	for i := range 200 {
		way := string("ab"[i/3%2])
		body := strings.Repeat("x", i*7)
		_, _ = fmt.Fprintf(&all, "PUT /%s/%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", way, i, len(body), body)
		_, _ = fmt.Fprintf(&want, "%s PUT /%s/%d %s\n", way, way, i, body)
	}
	go func() { _, _ = c.Write(all.Bytes()) }()
	var got bytes.Buffer
	for range 200 {
		_, body := c.response("PUT")
		got.WriteString(body + "\n")
	}
	if got.String() != want.String() {
		t.Errorf("answers differ: %d bytes, want %d", got.Len(), want.Len())
	}
}

// TestFraming: each kind of response ends where it ends, and the next one begins there.
func TestFraming(t *testing.T) {
	answers := map[string]string{
		"/sized":    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"/empty":    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"/chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2  \r\ndy\r\n0\r\nTrailer: yes\r\n\r\n",
		"/204":      "HTTP/1.1 204 No Content\r\nContent-Length: 17\r\n\r\n",
		"/304":      "HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\nETag: x\r\n\r\n",
		"/hints":    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"/noreason": "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",
		"/head":     "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
		"/chead":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
	}
	for _, slowly := range []bool{false, true} {
		addr := server(t, func(c *client) {
			for {
				req, _ := c.request()
				if req == nil {
					return
				}
				answer := answers[req.URL.Path]
				for len(answer) > 0 {
					n := len(answer)
					if slowly {
						n = 1
					}
					if _, err := io.WriteString(c, answer[:n]); err != nil {
						return
					}
					answer = answer[n:]
				}
			}
		})
		t.Run(fmt.Sprintf("slowly=%v", slowly), func(t *testing.T) {
			c := newRig(t, addr, Limits{}).client()
			for range 2 {
				for path, answer := range answers {
					method := "GET"
					if strings.HasSuffix(path, "head") {
						method = "HEAD"
					}
					c.send(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\n\r\n", method, path))
					got := make([]byte, len(answer))
					if _, err := io.ReadFull(c.r, got); err != nil || string(got) != answer {
						t.Fatalf("%s: %q, want %q, %v", path, got, answer, err)
					}
				}
			}
		})
	}
}

// TestEnds: a response ends with the connection where it says so, and the client's ends then.
func TestEnds(t *testing.T) {
	for name, answer := range map[string]string{
		"to the end":       "HTTP/1.1 200 OK\r\n\r\nall of it",
		"HTTP/1.0":         "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"close":            "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 4\r\n\r\nbody",
		"truncated":        "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nbody",
		"truncated chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nbody",
		"truncated head":   "HTTP/1.1 200 OK\r\nTransf",
		"nothing":          "",
		"more than it was": "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
	} {
		t.Run(name, func(t *testing.T) {
			addr := server(t, func(c *client) {
				if req, _ := c.request(); req != nil {
					_, _ = io.WriteString(c, answer)
				}
			})
			c := newRig(t, addr, Limits{}).client()
			c.send(fmt.Sprintf(get, "/"))
			want := answer
			if name == "truncated head" {
				want = "" // half a head means nothing
			}
			if got, reset := c.rest(); got != want || reset {
				t.Errorf("%q (reset: %v), want %q", got, reset, want)
			}
		})
	}
}

// TestMalformed: requests with no single interpretation reach no server.
func TestMalformed(t *testing.T) {
	addr := server(t, func(c *client) {
		if req, _ := c.request(); req != nil {
			t.Errorf("the server has %+v", req)
		}
	})
	r := newRig(t, addr, Limits{})
	for head, kind := range map[string]http1.Kind{
		"GET / HTTP/1.1\nHost: h\n\n":                                                                    http1.BareLF,
		"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n":                                                http1.Folded,
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx":                  http1.TwoLengths,
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": http1.BothFramed,
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":                http1.BadEncoding,
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n":                     http1.BadChunk,
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx":                                      http1.BadLength,
		"GET / HTTP/1.1\r\n\r\n":                                                              http1.BadHost,
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                                        http1.BadHost,
		"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n":                                           http1.BadHost,
		"GET / HTTP/1.2\r\nHost: h\r\n\r\n":                                                   http1.BadLine,
		"GET  / HTTP/1.1\r\nHost: h\r\n\r\n":                                                  http1.BadLine,
		"GET / HTTP/1.1\r\nHost : h\r\n\r\n":                                                  http1.BadName,
		"GET / HTTP/1.1\r\nHost: h\r\nA: \x00\r\n\r\n":                                        http1.BadValue,
		"GET / HTTP/1.1\r\nHost: h\r\nX-Data: a\r\nX-Data: b\r\n\r\n":                         http1.BadValue,
		"GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 70000):                       http1.TooLarge,
		"GET /" + strings.Repeat("a", maxPath) + " HTTP/1.1\r\nHost: h\r\n\r\n":               http1.TooLarge,
		"GET / HTTP/1.1\r\nHost: h\r\nX-Data: " + strings.Repeat("a", maxData+1) + "\r\n\r\n": http1.BadValue,
	} {
		malformed(t, r, head, kind, 400)
	}
}

// TestSlowRequest: a head that does not end in time is no request either.
func TestSlowRequest(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{Head: 300 * time.Millisecond})
	malformed(t, r, "GET / HTTP/1.1\r\nHost: h\r\nA: ", slow, 408)
}

// malformed sends a head and wants it refused with that status, and counted as that.
func malformed(t *testing.T, r *rig, head string, kind http1.Kind, want int) {
	t.Helper()
	r.Set(&Settings{DataHeaders: []string{"x-data"}})
	before := r.Counters().Malformed[kind]
	c := r.client()
	go func() { _, _ = io.WriteString(c, head) }()
	if resp, _ := c.response("GET"); resp.StatusCode != want || !resp.Close {
		t.Errorf("%.80q: %d, close: %v", head, resp.StatusCode, resp.Close)
	}
	if r.Counters().Malformed[kind] != before+1 {
		t.Errorf("%.80q: counted as %v", head, r.Counters().Malformed)
	}
	_ = c.Close()
}

// TestUpload: bodies arrive as they were sent, long ones and those that come in parts.
func TestUpload(t *testing.T) {
	addr := server(t, func(c *client) {
		for {
			req, body := c.request()
			if req == nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n%x", sha256.Sum256([]byte(body)))
		}
	})
	c := newRig(t, addr, Limits{}).client()
	for _, size := range []int{1, 1000, 16 << 10, 100 << 10, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		want := fmt.Sprintf("%x", sha256.Sum256(body))
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size))
		c.want(string(body), "POST", 200, want)
		c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 200<<10)
			c.send(fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n]))
			rest = rest[n:]
		}
		c.want("0\r\n\r\n", "POST", 200, want)
	}
}

// TestContinue: the body waits for the server's word.
func TestContinue(t *testing.T) {
	addr := server(t, func(c *client) {
		for {
			line, err := c.r.ReadString('\n')
			if err != nil {
				return
			}
			for more := ""; more != "\r\n"; {
				more, _ = c.r.ReadString('\n')
			}
			if strings.Contains(line, "/refused") {
				_, _ = io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body := make([]byte, 5)
			_, _ = io.ReadFull(c.r, body)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", body)
		}
	})
	c := newRig(t, addr, Limits{}).client()
	for range 2 {
		c.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if line, err := c.r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatal(line, err)
		}
		_, _ = c.r.ReadString('\n')
		c.want("hello", "PUT", 200, "hello")
	}
	c.want("PUT /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", "PUT", 417, "")
	if got, reset := c.rest(); got != "" || reset {
		t.Errorf("after the refusal: %q, reset: %v", got, reset)
	}
}

// TestEarlyAnswer: an answer comes while the request is still being sent, and what follows depends on the server.
func TestEarlyAnswer(t *testing.T) {
	const size = 4 << 20
	t.Run("and reads on", func(t *testing.T) {
		addr := server(t, func(c *client) {
			for {
				req, err := readHeadOnly(c)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
				_, _ = io.CopyN(io.Discard, c.r, req)
			}
		})
		c := newRig(t, addr, Limits{}).client()
		for range 2 {
			c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size))
			if _, body := c.response("POST"); body != "early" {
				t.Error(body)
			}
			c.send(strings.Repeat("x", size))
		}
	})
	t.Run("and closes", func(t *testing.T) {
		addr := server(t, func(c *client) {
			if _, err := readHeadOnly(c); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
			_ = c.CloseWrite()
			_, _ = io.CopyN(io.Discard, c.r, 1000)
		})
		c := newRig(t, addr, Limits{}).client()
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size))
		go func() { _, _ = io.WriteString(c, strings.Repeat("x", size)) }()
		if resp, body := c.response("POST"); resp.StatusCode != 413 || body != "large" {
			t.Error(resp.StatusCode, body)
		}
		c.rest()
	})
}

// readHeadOnly reads a head and returns its Content-Length.
func readHeadOnly(c *client) (length int64, err error) {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			return length, nil
		}
	}
}

// TestReplay: a request is repeated when the server had closed the connection, and only one that may be.
func TestReplay(t *testing.T) {
	silent := make(chan struct{}, 8)
	addr := server(t, func(c *client) {
		if req, _ := c.request(); req == nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = c.r.ReadByte() // of the second request, which has no answer
		silent <- struct{}{}
	})
	for method, replayed := range map[string]bool{"GET": true, "POST": false} {
		r := newRig(t, addr, Limits{})
		c := r.client()
		c.want(fmt.Sprintf(get, "/"), "GET", 200, "ok")
		second := method + " / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
		if replayed {
			c.want(second, method, 200, "ok")
		} else {
			c.send(second)
			if got, _ := c.rest(); got != "" {
				t.Errorf("%s: %q", method, got)
			}
		}
		<-silent
		if n := r.Counters().Replayed; (n == 1) != replayed {
			t.Errorf("%s: %d replayed", method, n)
		}
		_ = c.Close()
	}
}

// TestIdleEnd: when the server closes a kept-alive connection, the client sees that.
func TestIdleEnd(t *testing.T) {
	addr := server(t, func(c *client) {
		if req, _ := c.request(); req != nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := newRig(t, addr, Limits{}).client()
	c.want(fmt.Sprintf(get, "/"), "GET", 200, "ok")
	if got, reset := c.rest(); got != "" || reset {
		t.Errorf("%q, reset: %v", got, reset)
	}
}

// TestClientGoes: a server learns that its client is gone, or sends no more, while it has not answered yet.
func TestClientGoes(t *testing.T) {
	for _, how := range []string{"reset", "half", "half at once"} {
		t.Run(how, func(t *testing.T) {
			asked, learned := make(chan struct{}, 1), make(chan error, 1)
			addr := server(t, func(c *client) {
				if req, _ := c.request(); req == nil {
					return
				}
				asked <- struct{}{}
				_, err := c.r.ReadByte()
				learned <- err
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
			})
			c := newRig(t, addr, Limits{}).client()
			if c.send(fmt.Sprintf(get, "/")); how == "half at once" {
				_ = c.CloseWrite()
			}
			<-asked
			switch how {
			case "reset":
				_ = c.SetLinger(0)
				_ = c.Close()
				if err := <-learned; err == nil || errors.Is(err, io.EOF) || isTimeout(err) {
					t.Errorf("the server learned %v, want a reset", err)
				}
				return
			case "half":
				_ = c.CloseWrite()
			}
			if err := <-learned; !errors.Is(err, io.EOF) {
				t.Errorf("the server learned %v, want an end", err)
			}
			if _, body := c.response("GET"); body != "yes" {
				t.Errorf("the answer is %q", body)
			}
		})
	}
}

// TestServerResets: a reset reaches the client as one.
func TestServerResets(t *testing.T) {
	seen := make(chan struct{})
	addr := server(t, func(c *client) {
		if req, _ := c.request(); req != nil {
			if req.URL.Path == "/some" {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
				<-seen
			}
			_ = c.SetLinger(0)
		}
	})
	r := newRig(t, addr, Limits{})
	c := r.client()
	c.send(fmt.Sprintf(get, "/none"))
	if got, reset := c.rest(); got != "" || !reset {
		t.Errorf("%q, reset: %v", got, reset)
	}
	c = r.client()
	c.send(fmt.Sprintf(get, "/some"))
	part := make([]byte, len("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"))
	if _, err := io.ReadFull(c.r, part); err != nil {
		t.Fatal(err)
	}
	close(seen)
	if _, reset := c.rest(); !reset {
		t.Error("the client sees a peaceful end")
	}
}

// TestSwitch: after an upgrade, and after CONNECT, bytes pass both ways.
func TestSwitch(t *testing.T) {
	addr := server(t, func(c *client) {
		req, _ := c.request()
		if req == nil {
			return
		}
		if req.Header.Get("Upgrade") != "websocket" && req.Method != "CONNECT" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!")
			return
		}
		answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst"
		if req.Method == "CONNECT" {
			answer = "HTTP/1.1 200 Connected\r\n\r\nfirst"
		}
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(c, c.r)
		_, _ = io.WriteString(c, "last")
	})
	for name, request := range map[string]string{
		"WebSocket": "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"CONNECT":   "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, addr, Limits{})
			c := r.client()
			c.send(request + "early")
			for line := ""; line != "\r\n"; {
				line, _ = c.r.ReadString('\n')
			}
			want := "firstearly"
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
				t.Errorf("%q, %v", got, err)
			}
			flows := r.Flows()
			if len(flows) != 1 || !flows[0].Busy {
				t.Errorf("%+v", flows)
			}
			c.send("more")
			_ = c.CloseWrite()
			if got, reset := c.rest(); got != "morelast" || reset {
				t.Errorf("%q, reset: %v", got, reset)
			}
			if seen := r.rules.contexts()[0]; name == "CONNECT" && (seen.Host != "example.com" || seen.Method != "CONNECT" || seen.Operation != flow.Write) {
				t.Errorf("%+v", seen)
			}
		})
	}
	t.Run("h2c", func(t *testing.T) {
		c := newRig(t, addr, Limits{}).client()
		c.want("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: x, H2C\r\nHTTP2-Settings: x\r\n\r\n", "GET", 200, "no!")
	})
}

// TestBadAnswers: an answer with no single interpretation becomes 502.
func TestBadAnswers(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
		"SSH-2.0-x\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
	} {
		addr := server(t, func(c *client) {
			if req, _ := c.request(); req != nil {
				_, _ = io.WriteString(c, answer)
				_, _ = c.r.ReadByte()
			}
		})
		r := newRig(t, addr, Limits{})
		c := r.client()
		c.want(fmt.Sprintf(get, "/"), "GET", 502, "")
		_ = c.Close()
	}
}

// TestNoWay: HTTP clients are told why there is no connection.
func TestNoWay(t *testing.T) {
	r := newRig(t, "127.0.0.1:1", Limits{}) // where nobody listens, nor gets a port by chance
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Path == "/slow" {
			return flow.Decision{}, errors.New("no answer within 50ms")
		}
		return endpoint(""), nil
	})
	c := r.client()
	c.want(fmt.Sprintf(get, "/slow"), "GET", 503, "")
	c.want(fmt.Sprintf(get, "/"), "GET", 502, "")
	c.want("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD", 502, "")
	c.want("POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100000), "POST", 503, "")
	if _, reset := c.rest(); reset {
		t.Error("the answer was followed by a reset")
	}
}

// TestBadUpload: a body that turns out malformed is answered with 400, and ends the server's connection.
func TestBadUpload(t *testing.T) {
	ended := make(chan error, 1)
	addr := server(t, func(c *client) {
		_, err := io.Copy(io.Discard, c.r)
		ended <- err
	})
	r := newRig(t, addr, Limits{})
	c := r.client()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
	eventually(t, func() error {
		if len(r.Flows()) == 0 {
			return errors.New("no flow")
		}
		return nil
	})
	c.want("zz\r\n", "POST", 400, "")
	if err := <-ended; err == nil || isTimeout(err) {
		t.Errorf("the server sees %v, want a reset", err)
	}
	if n := r.Counters().Malformed[http1.BadChunk]; n != 1 {
		t.Errorf("%d bad chunks", n)
	}
}
