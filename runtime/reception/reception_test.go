package reception

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/test/certificates"
)

// place is a reception on a socket, and what callers need.
type place struct {
	t        *testing.T
	ca       *certificates.Authority
	r        *Reception
	listener *Listener

	mu   sync.Mutex
	told []Refusal // guarded by mu
}

func open(t *testing.T, terms Terms) *place {
	t.Helper()
	p := &place{t: t, ca: certificates.New(t)}
	cert, key := p.ca.Issue(t, "host.test")
	terms.TLS = (&credentials.Files{CA: p.ca.File, Cert: cert, Key: key}).Server
	terms.Within, terms.Rate, terms.Burst = time.Minute, 1e-6, 2 // so slow a rate that no machine waits for another question's worth
	terms.Name = func(c *x509.Certificate) (string, error) {
		if c.DNSNames[0] == "nobody" {
			return "", errors.New("nobody may come in")
		}
		return c.DNSNames[0], nil
	}
	terms.Tell = func(f Refusal) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = append(p.told, f)
	}
	p.r = New(terms)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listener = p.r.Listen(l)
	late := time.AfterFunc(time.Minute, func() { _ = p.listener.Close() }) // who is wrongly not let in is not waited for
	t.Cleanup(func() {
		late.Stop()
		_ = p.listener.Close()
	})
	return p
}

// caller is a node's dialer.
func (p *place) caller(name string) func() net.Conn {
	cert, key := p.ca.Issue(p.t, name)
	dial := (&credentials.Files{CA: p.ca.File, Cert: cert, Key: key}).Dialer(p.listener.Addr().String(), "host.test")
	return func() net.Conn {
		p.t.Helper()
		c, err := dial(context.Background())
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// in takes the next caller, who must have a name.
func (p *place) in(name string) *Guest {
	p.t.Helper()
	c, err := p.listener.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	g := Of(c)
	if g == nil || g.Name != name || g.Until.IsZero() {
		p.t.Fatalf("%+v is let in, wanted %s", g, name)
	}
	return g
}

// out waits until a caller is hung up on.
func (p *place) out(c net.Conn) {
	p.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := c.Read(make([]byte, 1)); n > 0 || isTimeout(err) {
		p.t.Fatalf("a caller stays: %v", err)
	}
}

// names are those that are counted.
func (p *place) names() []string {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	return slices.Sorted(maps.Keys(p.r.names))
}

// refusals are those that were told.
func (p *place) refusals() []Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// TestOfOne: a name has as many connections as it may, and takes none of another's.
func TestOfOne(t *testing.T) {
	p := open(t, Terms{Guests: 100, OfOne: 2, Greetings: 10})
	greedy, modest := p.caller("greedy"), p.caller("modest")
	greedy()
	first := p.in("greedy")
	greedy()
	p.in("greedy")
	for range 20 {
		p.out(greedy())
	}
	modest()
	other := p.in("modest")
	if got := p.r.Counts(); got.Crowding != 20 || got.Strangers != 0 {
		t.Errorf("%+v", got)
	}
	for range 2 { // closed twice it is one less
		_ = first.Close()
	}
	greedy()
	p.in("greedy")
	p.out(greedy())
	if !first.May(2) || first.May(1) || !other.May(1) || p.r.Counts().Hasty != 1 {
		t.Errorf("questions are not counted by name: %+v", p.r.Counts())
	}
	_ = other.Close()
	if !slices.Contains(p.names(), "modest") {
		t.Error("a name whose questions are counted is forgotten")
	}
}

// TestGuests: all together have as many as they may, and room that somebody leaves is another's.
func TestGuests(t *testing.T) {
	p := open(t, Terms{Guests: 3, OfOne: 2, Greetings: 10})
	a, b, c, d := p.caller("a"), p.caller("b"), p.caller("c"), p.caller("d")
	a()
	p.in("a")
	b()
	last := p.in("b")
	c()
	p.in("c")
	for _, none := range []struct {
		name string
		call func() net.Conn
	}{{"d", d}, {"a", a}} { // none has two
		p.out(none.call())
		told := p.refusals()
		if f := told[len(told)-1]; f.Name != none.name || !errors.Is(f.Why, ErrCrowded) {
			t.Errorf("%+v", f)
		}
	}
	_ = last.Close()
	if got := p.names(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("names that are gone are kept: %v", got)
	}
	d()
	p.in("d")
	if n := p.r.Guests(); n != 3 {
		t.Errorf("%d guests", n)
	}
}

// TestShare: names that have all connections that there are make room for one that has fewer, that which is silent for longest first, and
// do not get it back.
func TestShare(t *testing.T) {
	p := open(t, Terms{Guests: 9, OfOne: 4, Greetings: 10})
	type both struct {
		caller net.Conn
		guest  *Guest
	}
	call := make(map[string]func() net.Conn)
	for _, name := range []string{"a", "b", "few", "new"} {
		call[name] = p.caller(name)
	}
	enter := func(name string) both { c := call[name](); return both{c, p.in(name)} }
	var a, b []both
	for range 4 {
		a, b = append(a, enter("a")), append(b, enter("b"))
	}
	few := enter("few")
	if _, err := io.WriteString(a[0].caller, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a[0].guest, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		out  net.Conn // nil: there is no room for it
	}{{"new", b[0].caller}, {"new", a[1].caller}, {"new", nil}, {"b", nil}, {"few", b[1].caller}, {"few", nil}, {"a", nil}} {
		if step.out == nil {
			p.out(call[step.name]())
			continue
		}
		enter(step.name)
		p.out(step.out)
	}
	if got := p.r.Counts(); p.r.Guests() != 9 || got.Crowding != 7 {
		t.Errorf("%d guests, %+v", p.r.Guests(), got)
	}
	_ = b[0].guest.Close() // it is counted no more
	if told := p.refusals(); p.r.Guests() != 9 || len(told) == 0 || told[0].Name != "b" || !errors.Is(told[0].Why, ErrCrowded) {
		t.Errorf("%d guests, %+v", p.r.Guests(), told)
	}
	if _, err := io.WriteString(few.guest, "x"); err != nil {
		t.Error(err)
	}
}

// TestStrangers: callers without a name, or with one that is refused, are not let in, and are counted.
func TestStrangers(t *testing.T) {
	p := open(t, Terms{Guests: 3, OfOne: 2, Greetings: 10})
	p.out(p.caller("nobody")())
	plain, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n")
	_ = plain.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, plain); isTimeout(err) {
		t.Error("who speaks no TLS stays")
	}
	p.caller("a")()
	p.in("a")
	if got := p.r.Counts(); got.Strangers != 2 || got.Crowding != 0 {
		t.Errorf("%+v", got)
	}
	if told := p.refusals(); len(told) != 2 || told[0].Name != "" || told[0].From == nil {
		t.Errorf("%+v", told)
	}
}

// TestCrowd: of many who say nothing the oldest are hung up on, and who greets meanwhile is let in.
func TestCrowd(t *testing.T) {
	p := open(t, Terms{Guests: 3, OfOne: 2, Greetings: 4})
	var silent []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	p.out(silent[0])
	p.caller("a")()
	p.in("a")
	if _, err := net.Dial("tcp", p.listener.Addr().String()); err != nil { // in the middle of its greeting at the end
		t.Fatal(err)
	}
	if err := errors.Join(p.listener.Close(), second(p.listener.Next())); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	p.out(silent[49])
}

func second[T any](_ T, err error) error { return err }

// from is a connection from an address.
type from struct {
	net.Conn
	at     netip.Addr
	closed bool
}

func (f *from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.at, 1)) }
func (f *from) Close() error         { f.closed = true; return nil }

// TestNetworks: a crowd, whose addresses of IPv6 are as many as it likes, pushes itself out and not who greets from elsewhere.
func TestNetworks(t *testing.T) {
	g := greetings{most: 4}
	honest, other := &from{at: netip.MustParseAddr("192.0.2.1")}, &from{at: netip.MustParseAddr("2001:db8:1::1")}
	g.add(honest)
	g.add(other)
	var crowd []*from
	for n := range 100 {
		c := &from{at: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))}
		g.add(c)
		crowd = append(crowd, c)
	}
	if honest.closed || other.closed || g.remove(honest) || g.remove(other) {
		t.Error("who greets from elsewhere is hung up on")
	}
	for n, c := range crowd {
		if pushed := n < 98; c.closed != pushed || g.remove(c) != pushed {
			t.Errorf("of 100, number %d: closed %v", n, c.closed)
		}
	}
	if len(g.conns) != 0 {
		t.Errorf("%d greet still", len(g.conns))
	}
}

// TestTold: a crowd of strangers does not fill a log, nor hide that a node has too many connections.
func TestTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Refusal
		r := New(Terms{Tell: func(f Refusal) { told = append(told, f) }})
		for range 1000 {
			r.refuse(Refusal{Why: io.EOF})
		}
		if len(told) != tellBurst || r.Counts().Strangers != 1000 {
			t.Fatalf("told %d times", len(told))
		}
		r.refuse(Refusal{Why: ErrCrowded})
		if len(told) != tellBurst+1 || told[tellBurst].Left != 0 {
			t.Errorf("told %d times of a crowd: %+v", len(told), told)
		}
		time.Sleep(tellEvery)
		r.refuse(Refusal{Why: io.EOF})
		if len(told) != tellBurst+2 || told[tellBurst+1].Left != 1000-tellBurst {
			t.Errorf("%+v", told)
		}
	})
}
