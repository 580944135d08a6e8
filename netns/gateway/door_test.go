package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/http2"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/test/certificates"
)

// opened is a door with a gateway on paper behind it.
type opened struct {
	gateway   *Gateway
	door      *Door
	at        string
	authority *certificates.Authority
}

func open(t testing.TB, c Config) *opened {
	t.Helper()
	return openFor(t, c, doorConnections)
}

// openFor opens one with room for so many connections.
func openFor(t testing.TB, c Config, connections int) *opened {
	t.Helper()
	g, _ := onPaper(t, c)
	o := &opened{gateway: g, authority: certificates.New(t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.at = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	d := newDoor(g, o.authority.Credentials(t, "127.0.0.1", o.authority), connections)
	o.door = d
	go func() { served <- d.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return o
}

// as is a client with a certificate that one authority issued, and that believes another.
func (o *opened) as(t testing.TB, name string, issuer, believed *certificates.Authority) *provision.Client {
	t.Helper()
	c, err := provision.NewClient("https://"+o.at, issuer.Credentials(t, name, believed))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestCredentials lets in who is in the list and has a certificate of the right authority, and nobody else.
func TestCredentials(t *testing.T) {
	o := open(t, paperConfig(t))
	strange := certificates.New(t)
	good := o.as(t, "a", o.authority, o.authority)
	g, err := good.Allocate(t.Context(), allocate(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what   string
		client *provision.Client
		is     func(error) bool
		says   string
	}{
		{"another authority's certificate", o.as(t, "a", strange, o.authority), errdefs.IsUnavailable, "refuses this node's certificate"},
		{"a gateway of another authority", o.as(t, "a", o.authority, strange), errdefs.IsUnavailable, "not of this tunnel's ca"},
		{"a name that is not in the list", o.as(t, "c", o.authority, o.authority), errdefs.IsPermissionDenied, "not in the gateway's list of clients"},
	} {
		_, err := test.client.Allocate(t.Context(), allocate(t))
		if !test.is(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.what, err)
		}
	}
	if err := o.gateway.SetClients(t.Context(), []Client{{Name: "b", Leases: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := good.Renew(t.Context(), []string{g.Lease.ID}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a revoked client, on a connection of before: %v", err)
	}
	if len(o.gateway.leases) != 0 {
		t.Error("a revoked client has leases")
	}
	other := o.as(t, "b", o.authority, o.authority)
	r, err := other.Allocate(t.Context(), allocate(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Release(t.Context(), r.Lease.ID), other.Release(t.Context(), r.Lease.ID)); err != nil {
		t.Errorf("released twice: %v", err)
	}
	f := o.door.Figures()
	if want := map[Answer]uint64{{"allocate", "done"}: 2, {"allocate", "denied"}: 1, {"renew", "denied"}: 1, {"release", "done"}: 1, {"release", "invalid"}: 1}; !maps.Equal(f.Answers, want) {
		t.Errorf("answers %v, wanted %v", f.Answers, want)
	}
	if f.Connections == 0 || f.Refused.Strangers == 0 {
		t.Errorf("%+v", f)
	}
}

// TestHasty bounds how often one client asks, without harm to another.
func TestHasty(t *testing.T) {
	o := open(t, paperConfig(t))
	hasty, other := o.as(t, "a", o.authority, o.authority), o.as(t, "b", o.authority, o.authority)
	var refused atomic.Bool
	var all sync.WaitGroup
	end := time.Now().Add(time.Minute) // a busy machine may be hardly faster than the rate
	for range 8 {
		all.Go(func() {
			for !refused.Load() && time.Now().Before(end) {
				if _, err := hasty.Stats(t.Context()); errdefs.IsResourceExhausted(err) {
					refused.Store(true)
				}
			}
		})
	}
	all.Wait()
	if !refused.Load() {
		t.Error("nobody is held back")
	}
	if _, err := other.Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStrangers connect, in a crowd, and say nothing or what is no TLS. Who is a client is served meanwhile, and strangers are hung up on.
func TestStrangers(t *testing.T) {
	o := open(t, paperConfig(t))
	var silent [3 * doorGreetings]net.Conn
	crowd := func() {
		for n := range silent {
			conn, err := net.Dial("tcp", o.at)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			if n%20 == 0 {
				_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			}
			if silent[n] != nil {
				_ = silent[n].Close()
			}
			silent[n] = conn
		}
	}
	c := o.as(t, "a", o.authority, o.authority)
	for end := time.Now().Add(time.Minute); ; { // a busy machine may miss the client's own deadline: it asks again, in another crowd
		crowd()
		_, err := c.Stats(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	_ = silent[len(silent)-1].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, silent[len(silent)-1]); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who says nothing keeps the connection")
	}
}

// TestGreedy: one node has as many connections as it may, all those that are no clients together, too, and another node is served meanwhile.
func TestGreedy(t *testing.T) {
	o := open(t, paperConfig(t))
	for _, names := range [][]string{{"a"}, {"x1", "x2", "x3"}} {
		var calls []func() net.Conn
		for _, name := range names {
			calls = append(calls, o.caller(t, name))
		}
		const most = 100
		kept := 0
		for n := range most {
			if c := calls[n%len(calls)](); speaks(t, c) {
				kept++
			}
		}
		if kept != doorOfOne {
			t.Errorf("%v: %d of %d connections are kept, %d may be", names, kept, most, doorOfOne)
		}
	}
	if _, err := o.as(t, "b", o.authority, o.authority).Allocate(t.Context(), allocate(t)); err != nil {
		t.Error(err)
	}
}

// TestHostileClients: clients that take all connections there are, each as many as it may, and again when they lose one, keep no other client out.
func TestHostileClients(t *testing.T) {
	c := paperConfig(t)
	c.Clients = append(c.Clients, Client{Name: "c", Leases: 1}, Client{Name: "d", Leases: 1})
	o := openFor(t, c, 2*doorOfOne)
	hostile := []func() net.Conn{o.caller(t, "c"), o.caller(t, "d")}
	for n := range 2 * doorOfOne {
		if !speaks(t, hostile[n%2]()) {
			t.Fatalf("connection %d of %d is not kept", n, 2*doorOfOne)
		}
	}
	a, b := o.as(t, "a", o.authority, o.authority), o.as(t, "b", o.authority, o.authority)
	for range 3 {
		if err := errors.Join(second(a.Allocate(t.Context(), allocate(t))), second(b.Stats(t.Context()))); err != nil {
			t.Error(err)
		}
		for _, again := range hostile { // what has room now is that of the two
			speaks(t, again())
		}
	}
	f := o.door.Figures()
	if f.Connections != 2*doorOfOne || f.Refused.Crowding < 2 {
		t.Errorf("%+v", f)
	}
}

// TestRoom: a connection may neither announce much nor have much wait for whoever reads it.
func TestRoom(t *testing.T) {
	o := open(t, paperConfig(t))
	c := o.caller(t, "a")()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	frames := http2.NewFramer(io.Discard, c)
	got := make(map[http2.SettingID]uint32)
	window := 64<<10 - 1
	for { // until our settings are acknowledged: what it begins with is before that
		f, err := frames.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if w, ok := f.(*http2.WindowUpdateFrame); ok {
			window += int(w.Increment)
		}
		if s, ok := f.(*http2.SettingsFrame); ok {
			if s.IsAck() {
				break
			}
			_ = s.ForeachSetting(func(one http2.Setting) error { got[one.ID] = one.Val; return nil })
		}
	}
	if got[http2.SettingMaxFrameSize] != doorFrame || got[http2.SettingInitialWindowSize] != doorUnread || got[http2.SettingMaxConcurrentStreams] != doorStreams || window > doorUnread {
		t.Errorf("settings %v, a window of %d", got, window)
	}
}

// TestTurns: of one client some requests are worked on at once and the others wait, as long as a request may take. Another client's do not.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := onPaper(t, paperConfig(t))
		d := NewDoor(g, nil)
		var all sync.WaitGroup
		var working, told [2]atomic.Int64
		release := make(chan struct{})
		ask := func(client string, is int) {
			all.Go(func() {
				w := httptest.NewRecorder()
				r := asClient(httptest.NewRequest(http.MethodGet, "/", nil), client)
				d.answer(w, r, func(string, *http.Request) (any, error) {
					working[is].Add(1)
					<-release
					working[is].Add(-1)
					return nil, nil
				})
				if w.Code == http.StatusTooManyRequests {
					told[is].Add(1)
				}
			})
		}
		for range doorTurns + 3 {
			ask("a", 0)
		}
		ask("b", 1)
		synctest.Wait()
		if a, b := working[0].Load(), working[1].Load(); a != doorTurns || b != 1 {
			t.Errorf("%d requests of one client are worked on, %d may be; %d of 1 of another", a, doorTurns, b)
		}
		time.Sleep(doorDeadline + 1)
		synctest.Wait()
		if told[0].Load() != 3 || told[1].Load() != 0 {
			t.Errorf("%d that waited too long are told so, and %d others", told[0].Load(), told[1].Load())
		}
		ask("a", 0)
		close(release) // who waits has the next turn
		all.Wait()
		if told[0].Load() != 3 || len(d.turns.of) != 0 {
			t.Errorf("%d were refused, %d clients are remembered", told[0].Load(), len(d.turns.of))
		}
	})
}

// asClient is a request of a client's.
func asClient(r *http.Request, name string) *http.Request {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	return r
}

// caller connects as a name, and begins HTTP/2.
func (o *opened) caller(t *testing.T, name string) func() net.Conn {
	t.Helper()
	pair, pool, err := o.authority.Credentials(t, name, o.authority)()
	if err != nil {
		t.Fatal(err)
	}
	return func() net.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", o.at, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")) // RFC 9113, section 3.4
		return c
	}
}

// speaks tells whether the door has let a caller in, and does not hang up at once.
func speaks(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the door says nothing")
	}
	return err == nil
}

// TestLarge refuses what is too large, in words.
func TestLarge(t *testing.T) {
	o := open(t, paperConfig(t))
	pair, pool, err := o.authority.Credentials(t, "a", o.authority)()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	defer client.CloseIdleConnections()
	big := strings.NewReader(`{"version":1,"public_key":"` + strings.Repeat("A", provision.MaxMessage) + `"}`)
	got, err := client.Post("https://"+o.at+provision.PathLeases, "application/json", big)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if body, _ := io.ReadAll(got.Body); got.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "at most") || got.Proto != "HTTP/2.0" {
		t.Errorf("too large a message: %s %s %s", got.Proto, got.Status, body)
	}
}

// TestNodeName takes one name of a certificate, and no other.
func TestNodeName(t *testing.T) {
	for _, test := range []struct {
		dns  []string
		name string
		want string
	}{{nil, "a", "a"}, {[]string{"b"}, "a", "b"}, {[]string{"b", "c"}, "a", ""}, {nil, "", ""}} {
		c := &x509.Certificate{DNSNames: test.dns}
		c.Subject.CommonName = test.name
		if got, err := NodeName(c); got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%v: %q, %v", test, got, err)
		}
	}
}
