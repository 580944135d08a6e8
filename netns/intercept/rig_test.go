package intercept

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// patience is how long anything may take that will happen.
const patience = time.Minute

// rules is a Decider by a function, which may change.
type rules struct {
	remember atomic.Bool // whatever is asked is known at once
	mu       sync.Mutex
	rule     func(flow.Context) (flow.Decision, error)
	seen     []flow.Context
	prepared []flow.Context       // that it was told of before
	hold     func([]flow.Context) // called then; nil: nothing is
}

// Prepare implements Preparer.
func (r *rules) Prepare(_ context.Context, all []flow.Context) {
	r.mu.Lock()
	r.prepared = append(r.prepared, all...)
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		hold(all)
	}
}

// told are the contexts that it was told of since the last time.
func (r *rules) told() (all []flow.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, r.prepared = r.prepared, nil
	return all
}

func (r *rules) Decide(_ context.Context, c flow.Context) (flow.Decision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, c)
	return r.rule(c)
}

// Known implements Rememberer.
func (r *rules) Known(c *flow.Context) *flow.Decision {
	if !r.remember.Load() {
		return nil
	}
	d, err := r.Decide(context.Background(), *c)
	if err != nil {
		return nil
	}
	return &d
}

func (r *rules) set(rule func(flow.Context) (flow.Decision, error)) {
	r.mu.Lock()
	r.rule = rule
	r.mu.Unlock()
}

func (r *rules) contexts() []flow.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]flow.Context(nil), r.seen...)
}

func endpoint(name string) flow.Decision {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Endpoint: name}}
}

func deny(rule, reason string) flow.Decision {
	return flow.Decision{Profile: flow.Profile{Deny: true}, Matches: []flow.Match{{Rule: rule}}, Reason: reason}
}

// dialer connects to where a test's server of the endpoint listens; without one, to the destination.
type dialer struct {
	mu     sync.Mutex
	to     map[string]string // by endpoint
	dials  int
	tunnel string                                      // its name; "": the endpoint's
	gates  bool                                        // what is dialled takes a gateway that gives receipts
	gate   chan struct{}                               // closed before anything is connected; nil: at once
	keeps  func(tunnel string) (bool, <-chan struct{}) // nil: whatever there is
}

// Keeps implements Keeper.
func (d *dialer) Keeps(_ *flow.Context, _ *flow.Decision, tunnel string) (keeps bool, asked <-chan struct{}, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keeps == nil {
		return true, nil, 0
	}
	keeps, asked = d.keeps(tunnel)
	return keeps, asked, 100 * time.Millisecond
}

// by has new connections for an endpoint go to a server by a tunnel of the server's name, and what is kept go on as keeps says.
func (d *dialer) by(endpoint, server, tunnel string, keeps func(tunnel string) (bool, <-chan struct{})) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to[endpoint], d.tunnel, d.keeps = server, tunnel, keeps
}

func (d *dialer) Dial(ctx context.Context, c flow.Context, decision flow.Decision) (Upstream, error) {
	d.mu.Lock()
	to, ok := d.to[decision.Profile.Endpoint]
	tunnel := cmp.Or(d.tunnel, decision.Profile.Endpoint)
	d.dials++
	d.mu.Unlock()
	if d.gate != nil {
		<-d.gate
	}
	if !ok {
		to = c.Destination.String()
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return Upstream{}, err
	}
	return Upstream{Conn: conn.(*net.TCPConn), Tunnel: tunnel, Verified: true, Receipts: d.gates}, nil
}

func (d *dialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// rig is an engine before servers.
type rig struct {
	t testing.TB
	*Engine
	rules  *rules
	dialer *dialer
	front  *net.TCPListener
	to     netip.AddrPort
}

// newRig starts an engine whose clients' connections go to an address. At the end of the test nothing may be left of it. A client
// has as long as it takes to say its first byte, unless the test says otherwise: on a busy machine it may be some time after it connects.
func newRig(t testing.TB, to string, l Limits) *rig {
	t.Helper()
	files, routines := openFiles(t), runtime.NumGoroutine()
	r := &rig{t: t, rules: &rules{}, dialer: &dialer{to: map[string]string{}}, to: netip.MustParseAddrPort(to)}
	r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint(""), nil })
	var err error
	l.FirstByte = cmp.Or(l.FirstByte, patience)
	if r.Engine, err = New(r.rules, r.dialer, l); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.front = listener.(*net.TCPListener)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := r.front.AcceptTCP()
			if err != nil {
				return
			}
			r.ServeConn(conn, r.to)
		}
	}()
	t.Cleanup(func() {
		_ = r.front.Close()
		<-done
		r.Close()
		if n := len(r.Flows()); n > 0 {
			t.Errorf("%d flows are left", n)
		}
		if _, ok := t.(*testing.F); ok { // fuzzing has goroutines of its own
			return
		}
		runtime.GC() // pipes of splice
		runtime.GC()
		eventually(t, func() error {
			if now := runtime.NumGoroutine(); now > routines {
				stacks := make([]byte, 1<<20)
				return fmt.Errorf("%d goroutines, %d before\n%s", now, routines, stacks[:runtime.Stack(stacks, true)])
			}
			if now := openFiles(t); now > files {
				return fmt.Errorf("%d open files, %d before", now, files)
			}
			return nil
		})
	})
	return r
}

func openFiles(t testing.TB) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list { // epoll and eventfd of the runtime stay
		if to, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func eventually(t testing.TB, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Error(err)
}

// client is a connection through the engine.
type client struct {
	*net.TCPConn
	r *bufio.Reader
	t testing.TB
}

func (r *rig) client() *client {
	r.t.Helper()
	r.dialer.count() // its lock orders what the test set in the dialer before what it dials: connecting and accepting do not, for the race detector
	conn, err := net.Dial("tcp", r.front.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { _ = conn.Close() })
	return &client{conn.(*net.TCPConn), bufio.NewReader(conn), r.t}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// response reads a response to a request with that method.
func (c *client) response(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

// want asks for a path and checks status and body.
func (c *client) want(request, method string, status int, body string) {
	c.t.Helper()
	c.send(request)
	resp, got := c.response(method)
	if resp.StatusCode != status || body != "" && got != body {
		c.t.Errorf("%.60q: %d %q, want %d %q", request, resp.StatusCode, got, status, body)
	}
}

// rest reads to the end. reset tells that it was one.
func (c *client) rest() (got string, reset bool) {
	c.t.Helper()
	var b bytes.Buffer
	_, err := io.Copy(&b, c.r)
	if isTimeout(err) {
		c.t.Fatalf("the connection stays open; it had %q", b.String())
	}
	return b.String(), err != nil
}

// server accepts connections one at a time, or all at once, and gives each to serve.
func server(t testing.TB, serve func(c *client)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			group.Go(func() {
				defer conn.Close()
				serve(&client{conn.(*net.TCPConn), bufio.NewReader(conn), t})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		group.Wait()
	})
	return l.Addr().String()
}

// request reads a request and its body; nil at the end.
func (c *client) request() (*http.Request, string) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !isReset(err) {
			c.t.Errorf("server: %v", err)
		}
		return nil, ""
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		c.t.Logf("server: body: %v", err)
	}
	return req, string(body)
}

func isReset(err error) bool {
	return strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "broken pipe")
}

// echo is a server that answers every request with its name, method, target and body.
func echo(t testing.TB, name string) string {
	return server(t, func(c *client) {
		for {
			req, body := c.request()
			if req == nil {
				return
			}
			text := fmt.Sprintf("%s %s %s %s", name, req.Method, req.RequestURI, body)
			if req.Method == "HEAD" {
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(text))
				continue
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	})
}
