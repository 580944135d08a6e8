package intercept

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// h2cServer is a server of Go's library that speaks HTTP/2 without TLS.
func h2cServer(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}

// h2cClient is a client of Go's library whose one connection goes through the engine.
func (r *rig) h2cClient() *http.Client {
	r.t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", r.front.Addr().String())
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// named answers with its name, method, target and body.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.RequestURI, body)
	})
}

// ask makes a request and checks status and body.
func ask(t testing.TB, c *http.Client, method, url, body string, status int, want string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	must(t, err)
	resp, err := c.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || want != "" && string(got) != want {
		t.Errorf("%s %s: %d %.200q, want %d %.200q, %v", method, url, resp.StatusCode, got, status, want, err)
	}
}

// TestStreamsTwoTunnels: the streams of one connection go the ways that each of them demands.
func TestStreamsTwoTunnels(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["a"], r.dialer.to["b"] = h2cServer(t, named("a")), h2cServer(t, named("b"))
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Path == "/denied" {
			return deny("no-such-path", "test"), nil
		}
		return endpoint(c.Path[1:2]), nil
	})
	c := r.h2cClient()
	for range 3 {
		ask(t, c, "GET", "http://Example.com/a", "", 200, "a GET /a ")
		ask(t, c, "GET", "http://Example.com/b?q=1", "", 200, "b GET /b?q=1 ")
		ask(t, c, "POST", "http://Example.com/b", "hello", 200, "b POST /b hello")
		ask(t, c, "GET", "http://Example.com/denied", "", 403, "forefend: denied by rule no-such-path: test\n")
	}
	if n := r.dialer.count(); n != 2 {
		t.Errorf("%d connections to servers, want 2", n)
	}
	if got := r.Counters(); got.Requests != 12 || got.Denied != 3 || got.Connections != 1 {
		t.Errorf("%+v", got)
	}
	if flows := r.Flows(); len(flows) != 2 || flows[1].Requests != 6 || flows[0].Tunnel != "a" || flows[0].Context.Host != "example.com" {
		t.Errorf("%+v", flows)
	}
}

// TestStreamBodies: large bodies pass both ways, many at once.
func TestStreamBodies(t *testing.T) {
	r := newRig(t, h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})), Limits{})
	c := r.h2cClient()
	body := string(pattern(1 << 20))
	errs := make(chan error)
	const n = 20
	for range n {
		go func() {
			resp, err := c.Post("http://x/", "a/b", strings.NewReader(body))
			if err != nil {
				errs <- err
				return
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && string(got) != body {
				err = fmt.Errorf("%d bytes came back", len(got))
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() error { // what was sent last is counted once it is through
		if held := r.held.Load(); held != 0 {
			return fmt.Errorf("%d bytes are held", held)
		}
		return nil
	})
}

// TestStreamOriginate: HTTP/2 without TLS goes on in TLS where the host is configured, and the server speaks it.
func TestStreamOriginate(t *testing.T) {
	cert, pool := certificate(t, "api.example.com", "old.example.com")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: named("tls"), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	old := secure(t, cert)
	r := newRig(t, "127.0.0.1:80", Limits{})
	r.Set(&Settings{Originate: []Origination{
		{Host: "api.example.com", Port: uint16(mustPort(t, l.Addr().String())), TLS: &tls.Config{RootCAs: pool}},
		{Host: "old.example.com", Port: uint16(mustPort(t, old)), TLS: &tls.Config{RootCAs: pool}},
	}})
	c := r.h2cClient()
	ask(t, c, "POST", "http://api.example.com/x", strings.Repeat("y", 300000), 200, "tls POST /x "+strings.Repeat("y", 300000))
	ask(t, c, "GET", "http://old.example.com/x", "", 502, "")
}
