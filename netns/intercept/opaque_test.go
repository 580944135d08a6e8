package intercept

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// TestServerFirst: a client that waits for the server is not held up, and the next ones not at all.
func TestServerFirst(t *testing.T) {
	addr := server(t, func(c *client) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		line, _ := c.r.ReadString('\n')
		_, _ = io.WriteString(c, "250 "+line)
	})
	r := newRig(t, addr, Limits{FirstByte: 50 * time.Millisecond})
	for i := range 2 {
		c := r.client()
		if line, err := c.r.ReadString('\n'); line != "220 ready\r\n" {
			t.Fatal(line, err)
		}
		c.send("GET / HTTP/1.1\r\n") // whatever it looks like: the server spoke first
		if line, _ := c.r.ReadString('\n'); line != "250 GET / HTTP/1.1\r\n" {
			t.Error(line)
		}
		c.rest()
		if known := r.spoke.has(r.to); !known {
			t.Errorf("connection %d: the server is not known to speak first", i)
		}
	}
	for _, c := range r.rules.contexts() {
		if c.Protocol != flow.Opaque || c.Operation != flow.Write || c.Destination != r.to {
			t.Errorf("%+v", c)
		}
	}
}

// TestHesitation: saying nothing for a while does not hide HTTP or TLS.
func TestHesitation(t *testing.T) {
	r := newRig(t, echo(t, "a"), Limits{FirstByte: time.Millisecond})
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Protocol == flow.HTTP && c.Path == "/secret" {
			return deny("secret", ""), nil
		}
		return endpoint(""), nil
	})
	c := r.client()
	eventually(t, func() error { // it was connected for what it is not
		if len(r.Flows()) == 0 {
			return errors.New("no flow")
		}
		return nil
	})
	c.want(fmt.Sprintf(get, "/secret"), "GET", 403, "")
	c.want(fmt.Sprintf(get, "/open"), "GET", 200, "a GET /open ")
	if n := r.dialer.count(); n != 1 {
		t.Errorf("%d connections", n)
	}

	t.Run("and another way, by other rules", func(t *testing.T) {
		r := newRig(t, "192.0.2.1:80", Limits{FirstByte: time.Millisecond})
		r.dialer.to["a"], r.dialer.to["b"] = server(t, func(c *client) { _, _ = io.Copy(io.Discard, c.r) }), echo(t, "b")
		r.rules.set(func(c flow.Context) (flow.Decision, error) {
			if c.Protocol == flow.Opaque {
				return endpoint("a"), nil
			}
			return endpoint("b"), nil
		})
		c := r.client()
		eventually(t, func() error {
			if len(r.Flows()) == 0 {
				return errors.New("no flow")
			}
			return nil
		})
		c.want(fmt.Sprintf(get, "/"), "GET", 200, "b GET / ")
		r.rules.set(func(c flow.Context) (flow.Decision, error) {
			if c.Protocol == flow.Opaque {
				return deny("opaque", ""), nil
			}
			return endpoint("b"), nil
		})
		r.Redecide() // what was taken for opaque is not
		c.want(fmt.Sprintf(get, "/"), "GET", 200, "b GET / ")
	})

	t.Run("where nothing opaque may pass", func(t *testing.T) {
		r := newRig(t, echo(t, "a"), Limits{FirstByte: time.Millisecond})
		r.rules.set(func(c flow.Context) (flow.Decision, error) {
			if c.Protocol == flow.Opaque {
				return deny("opaque", ""), nil
			}
			return endpoint(""), nil
		})
		c, other := r.client(), r.client()
		eventually(t, func() error { // both were found silent
			if n := len(r.rules.contexts()); n < 2 {
				return fmt.Errorf("%d decisions", n)
			}
			return nil
		})
		c.want(fmt.Sprintf(get, "/open"), "GET", 200, "a GET /open ")
		other.send("*1\r\n")
		if got, reset := other.rest(); got != "" || !reset {
			t.Errorf("%q, reset: %v", got, reset)
		}
	})

	t.Run("in the middle", func(t *testing.T) {
		r := newRig(t, server(t, func(c *client) { _, _ = io.Copy(io.Discard, c.r) }), Limits{FirstByte: time.Millisecond})
		c := r.client()
		c.send("GET /sec")
		eventually(t, func() error { // the server has the beginning after a while
			for _, f := range r.Flows() {
				if f.Sent == int64(len("GET /sec")) {
					return nil
				}
			}
			return errors.New("not sent")
		})
		c.send("ret HTTP/1.1\r\nHost: h\r\n\r\n")
		if got, reset := c.rest(); got != "" || !reset {
			t.Errorf("%q, reset: %v", got, reset)
		}
		if n := r.Counters().Cut; n != 1 {
			t.Errorf("%d cut", n)
		}
	})
}

// TestOpaque: both directions end on their own, and a reset is passed on.
func TestOpaque(t *testing.T) {
	addr := server(t, func(c *client) {
		sum := sha256.New()
		if n, err := io.Copy(sum, c.r); err == nil {
			_, _ = fmt.Fprintf(c, "%d %x", n, sum.Sum(nil))
		} else {
			_, _ = io.WriteString(c, "reset")
		}
	})
	r := newRig(t, addr, Limits{})
	for _, size := range []int{0, 1, 100, 5 << 20} {
		c := r.client()
		body := bytes.Repeat([]byte("\x00redis?\r\n"), size/9+1)[:size]
		c.send(string(body))
		_ = c.CloseWrite()
		if got, reset := c.rest(); got != fmt.Sprintf("%d %x", size, sha256.Sum256(body)) || reset {
			t.Errorf("%d: %q, reset: %v", size, got, reset)
		}
	}
	for _, request := range []string{"*1\r\n$4\r\nPING\r\n", "PING\r\n", "GET key\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x04\x01"} {
		c := r.client()
		c.send(request)
		_ = c.CloseWrite()
		c.rest()
	}
	for _, c := range r.rules.contexts() {
		if c.Protocol != flow.Opaque {
			t.Errorf("%+v", c)
		}
	}
}

func TestDenied(t *testing.T) {
	r := newRig(t, "192.0.2.1:1", Limits{})
	r.rules.set(func(flow.Context) (flow.Decision, error) { return deny("x", ""), nil })
	for _, first := range []string{"*1\r\n", "\x16\x03\x01"} {
		c := r.client()
		c.send(first)
		if first[0] == 0x16 {
			c.send("\x00\x05\x01xxxx")
		}
		if got, reset := c.rest(); got != "" || !reset {
			t.Errorf("%q, reset: %v", got, reset)
		}
	}
	if got := r.Counters(); got.Denied != 1 || got.MalformedHello != 1 || r.dialer.count() != 0 {
		t.Errorf("%+v", got)
	}
}

// certificate makes one for the names that signs itself.
func certificate(t testing.TB, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// secure is a server that answers like echo, in TLS.
func secure(t testing.TB, cert tls.Certificate) string {
	inner := echo(t, "tls")
	return server(t, func(c *client) {
		conn := tls.Server(c.TCPConn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
		if conn.Handshake() != nil {
			return
		}
		to, err := net.Dial("tcp", inner)
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		go func() { _, _ = io.Copy(to, conn); _ = to.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(conn, to)
	})
}

// TestTLS: connections are told apart by the server's name, in both versions, and with post-quantum keys.
func TestTLS(t *testing.T) {
	cert, pool := certificate(t, "good.example.com", "bad.example.com")
	r := newRig(t, secure(t, cert), Limits{})
	r.Set(&Settings{Base: flow.Context{Workload: "job"}, Data: "internal", Mappings: []Mapping{{Host: "*.example.com", Data: "secret"}}})
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Protocol != flow.TLS || c.User != "job" || c.UserProof != flow.Workload || c.Data != "secret" || c.Operation != flow.Write {
			return flow.Decision{}, fmt.Errorf("%+v", c)
		}
		if c.Host != "good.example.com" {
			return deny("name", ""), nil
		}
		return endpoint(""), nil
	})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, split := range []bool{false, true} {
			for _, name := range []string{"Good.Example.com", "bad.example.com"} {
				c := r.client()
				var wire net.Conn = c
				if split {
					wire = bytewise{c}
				}
				conn := tls.Client(wire, &tls.Config{ServerName: name, RootCAs: pool, MinVersion: version, MaxVersion: version,
					CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}})
				err := conn.Handshake()
				if good := strings.HasPrefix(name, "Good"); (err == nil) != good {
					t.Fatalf("%x, split: %v, %s: %v", version, split, name, err)
				} else if !good {
					continue
				}
				c.r.Reset(conn)
				_, _ = fmt.Fprintf(conn, get, "/")
				if _, body := c.response("GET"); body != "tls GET / " {
					t.Error(body)
				}
				_ = conn.Close()
			}
		}
	}
}

// bytewise writes the first bytes one by one.
type bytewise struct{ *client }

func (b bytewise) Write(p []byte) (n int, err error) {
	for n < len(p) && n < 300 && err == nil {
		_, err = b.client.Write(p[n : n+1])
		n++
	}
	if err == nil && n < len(p) {
		var more int
		more, err = b.client.Write(p[n:])
		n += more
	}
	return n, err
}

// TestOriginate: plain HTTP leaves as TLS where the host is configured, and only to the right server.
func TestOriginate(t *testing.T) {
	cert, pool := certificate(t, "api.example.com")
	addr := secure(t, cert)
	r := newRig(t, "127.0.0.1:80", Limits{})
	port := uint16(mustPort(t, addr))
	r.Set(&Settings{Originate: []Origination{{Host: "*.example.com", Port: port, TLS: &tls.Config{RootCAs: pool}}}})
	c := r.client()
	for range 2 {
		c.want("POST /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 300000\r\n\r\n"+strings.Repeat("y", 300000), "POST", 200,
			"tls POST /x "+strings.Repeat("y", 300000))
	}
	c.want("GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n", "GET", 502, "")
	if seen := r.rules.contexts()[0]; seen.Destination.Port() != port || seen.Protocol != flow.HTTP || seen.Path != "/x" {
		t.Errorf("%+v", seen)
	}
}

func mustPort(t testing.TB, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

// TestRedecide: opaque flows whose decision changes are cut at once, others go on; HTTP obeys at the next request.
func TestRedecide(t *testing.T) {
	const n = 200
	addr := server(t, func(c *client) { _, _ = io.Copy(c, c.r) })
	r := newRig(t, addr, Limits{})
	var mu sync.Mutex
	denied := false
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		mu.Lock()
		defer mu.Unlock()
		if denied && c.Protocol == flow.Opaque && c.Risk > 50 {
			return deny("risky", ""), nil
		}
		d := endpoint("")
		d.Reason = fmt.Sprint(denied)
		return d, nil
	})
	var clients []*client
	for range n {
		c := r.client()
		c.send("\x00")
		if b, err := c.r.ReadByte(); err != nil {
			t.Fatal(b, err)
		}
		clients = append(clients, c)
	}
	mu.Lock()
	denied = true
	mu.Unlock()
	r.Redecide()
	if told := r.rules.told(); len(told) != n || told[0].Protocol != flow.Opaque {
		t.Errorf("told of %d flows before", len(told))
	}
	if flows := r.Flows(); len(flows) != n || flows[0].Reason != "true" || r.Counters().Cut != 0 {
		t.Errorf("%d flows, %+v", len(flows), r.Counters())
	}
	r.Set(&Settings{Base: flow.Context{Risk: 60}})
	r.Redecide()
	if told := r.rules.told(); len(told) != n || told[0].Risk != 60 {
		t.Errorf("told of %d flows before", len(told))
	}
	if cut := r.Counters().Cut; cut != n {
		t.Errorf("%d cut", cut)
	}
	for _, c := range clients {
		if got, reset := c.rest(); got != "" || !reset {
			t.Fatalf("%q, reset: %v", got, reset)
		}
	}
}

// TestRedecideGoesOn: what may not go on is cut while others are still being decided, and all that comes first and alone is known for the rest.
func TestRedecideGoesOn(t *testing.T) {
	const n = 2*together + 1
	addr := server(t, func(c *client) { _, _ = io.Copy(c, c.r) })
	r := newRig(t, addr, Limits{})
	r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint(""), nil })
	for range n {
		c := r.client()
		c.send("\x00")
		if b, err := c.r.ReadByte(); err != nil {
			t.Fatal(b, err)
		}
	}
	r.rules.told()
	r.rules.set(denyNow)
	var asked atomic.Int32
	late := make(chan struct{})
	r.rules.mu.Lock()
	r.rules.hold = func(all []flow.Context) {
		if i := asked.Add(1); i == 1 && len(all) != 1 || i > 1 && len(all) != together {
			t.Errorf("question %d is about %d flows", i, len(all))
		} else if i == 2 {
			<-late
		}
	}
	r.rules.mu.Unlock()
	done := make(chan struct{})
	go func() { r.Redecide(); close(done) }()
	eventually(t, func() error {
		if cut := r.Counters().Cut; cut != together+1 {
			return fmt.Errorf("%d cut while the others are not decided", cut)
		}
		return nil
	})
	select {
	case <-done:
		t.Error("it says that nothing is served by older rules while something is")
	default:
	}
	close(late)
	<-done
	if cut := r.Counters().Cut; cut != n {
		t.Errorf("%d cut", cut)
	}
}

// TestQuota: connections beyond the quota are reset, and the ones before live.
func TestQuota(t *testing.T) {
	r := newRig(t, echo(t, "a"), Limits{Connections: 2})
	first, second := r.client(), r.client()
	first.want(fmt.Sprintf(get, "/"), "GET", 200, "")
	second.want(fmt.Sprintf(get, "/"), "GET", 200, "")
	if conn, err := net.Dial("tcp", r.front.Addr().String()); err == nil { // the reset may come before dialling is over
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || isTimeout(err) {
			t.Errorf("beyond the quota: %v, want a reset", err)
		}
		_ = conn.Close()
	}
	eventually(t, func() error {
		if n := r.Counters().Refused; n != 1 {
			return fmt.Errorf("%d refused", n)
		}
		return nil
	})
	_ = first.Close()
	eventually(t, func() error {
		if r.Counters().Open > 1 {
			return errors.New("still open")
		}
		return nil
	})
	r.client().want(fmt.Sprintf(get, "/"), "GET", 200, "")
	if n := r.Counters().Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
}

// TestRates: what passes keeps within ±5 % of the limit over seconds, with one connection and with several that share it.
func TestRates(t *testing.T) {
	const perSecond, seconds = 4 << 20, 2
	for name, scope := range map[string]flow.Scope{"connection": flow.PerConnection, "rule": flow.PerRule} {
		for _, connections := range []int{1, 10} {
			if connections > 1 && scope == flow.PerConnection {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", name, connections), func(t *testing.T) {
				addr := server(t, func(c *client) {
					if req, _ := c.request(); req != nil {
						_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 1<<30)
						_, _ = io.Copy(c, zeros{})
					}
				})
				r := newRig(t, addr, Limits{})
				r.rules.set(func(flow.Context) (flow.Decision, error) {
					d := endpoint("")
					d.Profile.Rates = []flow.Rate{{Bytes: perSecond, Scope: scope, Rule: "slow"}}
					return d, nil
				})
				got := 0.0
				for try := 0; try < 5 && got < 0.3; try++ { // a loaded machine may be slower for a while, never faster
					got = rateOf(t, r, connections, seconds*time.Second) / perSecond
					t.Logf("%.3f of the limit", got)
					if got > 1.08 { // a burst is 2.5 % of two seconds
						t.Errorf("%.3f of the limit", got)
					}
				}
				if got < 0.3 {
					t.Errorf("%.3f of the limit", got)
				}
			})
		}
	}
}

// rateOf is how many bytes a second connections that end with it get, all together.
func rateOf(t *testing.T, r *rig, connections int, length time.Duration) float64 {
	t.Helper()
	var group sync.WaitGroup
	var total atomic.Int64
	begun := time.Now()
	for range connections {
		c := r.client()
		defer c.Close()
		c.send(fmt.Sprintf(get, "/"))
		group.Go(func() {
			b := make([]byte, 64<<10)
			for time.Since(begun) < length {
				n, err := c.r.Read(b)
				if err != nil {
					t.Error(err)
					return
				}
				total.Add(int64(n))
			}
		})
	}
	group.Wait()
	return float64(total.Load()) / time.Since(begun).Seconds()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestRequestRate: requests beyond the rate wait.
func TestRequestRate(t *testing.T) {
	r := newRig(t, echo(t, "a"), Limits{})
	r.rules.set(func(flow.Context) (flow.Decision, error) {
		d := endpoint("")
		d.Profile.Rates = []flow.Rate{{Requests: 50, Scope: flow.PerUser, Rule: "x"}}
		return d, nil
	})
	c := r.client()
	begun := time.Now()
	for range 26 {
		c.want(fmt.Sprintf(get, "/"), "GET", 200, "")
	}
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("26 requests at 50 a second took %s", took)
	}
}
