package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/liar"
	"forefend.dev/forefend/test/network"
)

// families are those of connections inside of a tunnel: the world's address, that of loopback, and a server that is neither.
var families = []struct{ name, world, loopback, other string }{
	{"IPv4", worldAt, "127.0.0.1", "192.0.2.7:443"},
	{"IPv6", world6At, "::1", "[2001:db8:7::7]:443"},
}

// audited is a guarded container with a real interceptor in this process, whose only way is a gateway's tunnel.
type audited struct {
	guarded
	s      *Service
	world  string // the address of the server that connect connects to
	way    intercept.Way
	engine *intercept.Engine
	began  time.Time
	next   uint64
	asked  []flow.Datagrams // by ask
	astray atomic.Bool      // connections go by another way than they say
}

func newAudited(t testing.TB, s *Service, world string) *audited {
	t.Helper()
	a := &audited{guarded: newGuarded(t, s), s: s, world: world}
	got, err := s.Attach(t.Context(), a.ask())
	if err != nil || !got.Receipts {
		t.Fatalf("%+v, %v", got, err)
	}
	a.way, a.began = wayOf(got), time.Now() // not before it has a way, for which it may have to wait: what begins soon after is excused
	if a.engine, err = intercept.New(a, a, intercept.Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.engine.Close)
	a.engine.Set(&intercept.Settings{})
	return a
}

// Decide implements intercept.Decider.
func (a *audited) Decide(context.Context, flow.Context) (flow.Decision, error) {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Encryption: flow.Strong}}, nil
}

// Way implements intercept.Ways.
func (a *audited) Way(context.Context, flow.Context, flow.Decision) (intercept.Way, error) {
	return a.way, nil
}

// Dial implements intercept.Dialer.
func (a *audited) Dial(ctx context.Context, c flow.Context, d flow.Decision) (up intercept.Upstream, err error) {
	if a.astray.Load() {
		conn, err := net.Dial("tcp", c.Destination.String())
		if err != nil {
			return up, err
		}
		return intercept.Upstream{Conn: conn.(*net.TCPConn), Tunnel: a.way.Tunnel, Receipts: true}, nil
	}
	err = a.ns.Do(func() (err error) {
		up, err = intercept.Marked{Ways: a}.Dial(ctx, c, d)
		return err
	})
	return up, err
}

// connect is an application's connection that the interceptor has taken.
func (a *audited) connect(t testing.TB, to string) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.engine.ServeConn(taken.(*net.TCPConn), netip.MustParseAddrPort(to))
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// goOn has another tunneld be asked, once that knows the gateway.
func (a *audited) goOn(t testing.TB, s *Service) {
	t.Helper()
	a.s = s
	if _, err := s.Attach(t.Context(), a.ask()); err != nil { // which waits for the gateway
		t.Fatal(err)
	}
}

// round compares, as the shim does.
func (a *audited) round(t testing.TB) api.Reconciled {
	t.Helper()
	at := time.Now()
	for live := uint64(0); ; {
		got := a.engine.Accounts(a.next, live, 100)
		got.At, got.Since = at, a.began
		if !got.More {
			got.Datagrams = append(got.Datagrams, a.asked...)
		}
		out, err := a.s.Reconcile(t.Context(), api.ReconcileRequest{Namespace: a.namespace, Accounts: got, All: true})
		if err != nil {
			t.Fatal(err)
		}
		if a.next, live = got.Next, got.Live; !got.More {
			return out
		}
	}
}

// agrees makes rounds until each connection has been compared, and wants no fault.
func (a *audited) agrees(t testing.TB, atLeast int) {
	t.Helper()
	for range 3 {
		r := a.round(t)
		if len(r.Faults) > 0 || len(r.Trouble) > 0 {
			t.Fatalf("%s, %s", inWords(r.Faults), r.Trouble)
		}
	}
	r := a.round(t)
	for _, v := range r.Verdicts {
		if v.Standing != flow.Agrees {
			t.Errorf("%s", inWords([]flow.Verdict{v}))
		}
	}
	if len(r.Faults) > 0 || len(r.Verdicts) < atLeast {
		t.Errorf("%d connections compared, not %d: %s", len(r.Verdicts), atLeast, inWords(r.Faults))
	}
}

// socket is one to a server by the tunnel, as the interceptor makes for each query.
func (a *audited) socket(t testing.TB, server netip.AddrPort) (s intercept.Socket) {
	t.Helper()
	if err := a.ns.Do(func() (err error) {
		s, err = intercept.Marked{Ways: a}.DialPacket(t.Context(), flow.Context{Destination: server}, flow.Decision{})
		return err
	}); err != nil || !s.Receipts {
		t.Fatalf("%+v, %v", s, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// query has a server bounce a datagram, each time from another port, and counts as the interceptor does.
func (a *audited) query(t testing.TB, server netip.AddrPort, n int) {
	t.Helper()
	i := slices.IndexFunc(a.asked, func(d flow.Datagrams) bool { return d.Remote == server })
	if i < 0 {
		i = len(a.asked)
		a.asked = append(a.asked, flow.Datagrams{Remote: server, Tunnel: a.way.Tunnel})
	}
	for size := range n {
		s := a.socket(t, server)
		a.asked[i].Sent += uint64(size)
		if _, err := s.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // some are lost
		if got, err := s.Read(make([]byte, 2000)); err == nil {
			a.asked[i].Received += uint64(got)
		}
		_ = s.Close()
	}
}

func inWords(all []flow.Verdict) string {
	var b strings.Builder
	for _, v := range all {
		body, _ := json.Marshal(v)
		fmt.Fprintf(&b, "%s\n", body)
	}
	return b.String()
}

// wrong makes rounds until there is a fault.
func (a *audited) wrong(t testing.TB, want flow.Standing) flow.Verdict {
	t.Helper()
	for range 4 {
		if r := a.round(t); len(r.Faults) > 0 {
			if r.Faults[0].Standing != want || r.Faults[0].Why == "" {
				t.Fatalf("not %s: %s", want, inWords(r.Faults))
			}
			return r.Faults[0]
		}
	}
	t.Fatalf("nothing is %s", want)
	return flow.Verdict{}
}

// pages serves HTTP behind the gateway: GET gives as many bytes as its path says, POST takes.
func (d *distance) pages(t testing.TB) {
	t.Helper()
	var l net.Listener
	err := d.behind.Do(func() (err error) {
		l, err = net.Listen("tcp", ":80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int64
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &n)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.CopyN(w, network.Zeroes{}, n)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// get asks for so many bytes on a connection, and sends as many.
func get(conn net.Conn, r *bufio.Reader, n int64) error {
	q, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://world.example/%d", n), io.LimitReader(network.Zeroes{}, n))
	if err != nil {
		return err
	}
	q.ContentLength = n
	sent := make(chan error, 1)
	go func() { sent <- q.Write(conn) }()
	answer, err := http.ReadResponse(r, q)
	if err != nil {
		return err
	}
	got, err := io.Copy(io.Discard, answer.Body)
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes of %d", got, n)
	}
	return errors.Join(err, <-sent)
}

// lossy has the gateway's machine drop packets of the world, before or after they are counted, one in so many.
func (d *distance) lossy(t testing.TB, one uint32) (heal func()) {
	t.Helper()
	err := d.at.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "lossy", Family: nftables.TableFamilyINet})
		for name, at := range map[string]*nftables.ChainPriority{"before": nftables.ChainPriorityRaw, "after": nftables.ChainPriorityMangle} {
			chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: at})
			for _, device := range []string{"up0", "ffgw"} {
				name := make([]byte, 16)
				copy(name, device)
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
					&expr.Numgen{Register: 1, Type: 1, Modulus: one}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
					&expr.Verdict{Kind: expr.VerdictDrop},
				}})
			}
		}
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := d.at.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.DelTable(&nftables.Table{Name: "lossy", Family: nftables.TableFamilyINet})
			return c.Flush()
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRootReceipts has all kinds of honest connections, of either family, agree with the gateway: also while they go on, over a path that
// loses packets, and when either side is started anew.
func TestRootReceipts(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	d.pages(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { honest(t, d, f.world) })
	}
}

func honest(t *testing.T, d *distance, world string) {
	dir, one := t.TempDir(), d.tunnel(t, "far")
	s, stop := serve(t, dir, one)
	defer func() { stop() }()
	a := newAudited(t, s, world)
	many(t, a, 40)
	a.agrees(t, 41)
	transfer(t, a, 16<<20)
	a.agrees(t, 42)
	heal := d.lossy(t, 20)
	transfer(t, a, 1<<20)
	many(t, a, 5)
	a.agrees(t, 48)
	heal()

	open := a.connect(t, net.JoinHostPort(a.world, "80"))
	r := bufio.NewReader(open)
	if err := get(open, r, 1000); err != nil {
		t.Fatal(err)
	}
	a.agrees(t, 1)
	d.stop()
	d.start(t)
	if err := get(open, r, 100_000); err != nil {
		t.Fatal(err)
	}
	many(t, a, 3)
	a.agrees(t, 1)
	stop()
	s, stop = serve(t, dir, one)
	a.goOn(t, s)
	if err := get(open, r, 100_000); err != nil {
		t.Fatalf("a connection of before tunneld was started anew: %v", err)
	}
	many(t, a, 3)
	a.agrees(t, 3)
}

// many makes a connection with many requests, and as many short ones.
func many(t testing.TB, a *audited, n int) {
	t.Helper()
	kept := a.connect(t, net.JoinHostPort(a.world, "80"))
	in := bufio.NewReader(kept)
	for i := range n {
		short := a.connect(t, net.JoinHostPort(a.world, "80"))
		if err := errors.Join(get(kept, in, int64(i*100)), get(short, bufio.NewReader(short), int64(i*1000))); err != nil {
			t.Fatal(err)
		}
		_ = short.Close()
	}
	_ = kept.Close()
}

// transfer sends bytes there and back, with rounds all the while.
func transfer(t testing.TB, a *audited, n int64) {
	t.Helper()
	conn := a.connect(t, net.JoinHostPort(a.world, "80"))
	done := make(chan error, 1)
	go func() { done <- get(conn, bufio.NewReader(conn), n) }()
	for rounds := 0; ; rounds++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d rounds during %d bytes there and back", rounds, n)
			return
		default:
			if r := a.round(t); len(r.Faults) > 0 {
				t.Fatalf("after %d rounds: %s", rounds, inWords(r.Faults))
			}
		}
	}
}

// lying puts a door before the gateway's that can lie.
func (d *distance) lying(t testing.TB) (door *liar.Door, address string) {
	t.Helper()
	var on net.Listener
	if err := d.at.Do(func() (err error) {
		on, err = net.Listen("tcp", gatewayAt+":7444")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return liar.New(t, on, "https://"+gatewayAt+":7443", liar.Issued(t, d.authority, gatewayAt, "node-1")), "https://" + gatewayAt + ":7444"
}

// TestRootReceiptsLie has gateways and containers lie, each in its way: it is found, and the connection is ended.
func TestRootReceiptsLie(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	d.pages(t)
	time.Sleep(3500 * time.Millisecond) // what began with the gateway's counts is excused: it is never astray
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { lies(t, d, f.world, f.other) })
	}
}

// lies has each lie told of connections to the world; other is a server that they do not go to.
func lies(t *testing.T, d *distance, world, other string) {
	falsified := func(change func(*receipt.Receipt)) func(*receipt.Signed) {
		return liar.Falsified(t, d.config.State, change)
	}
	elsewhere := netip.MustParseAddrPort(other)
	var old *receipt.Signed
	for name, c := range map[string]struct {
		lie func(*receipt.Signed)
		is  flow.Standing
	}{
		"more was sent":  {falsified(func(r *receipt.Receipt) { r.Up.Bytes += 20_000 }), flow.Differs},
		"less was sent":  {falsified(func(r *receipt.Receipt) { r.Up.Bytes /= 2 }), flow.Differs},
		"less came back": {falsified(func(r *receipt.Receipt) { r.Down.Bytes /= 2 }), flow.Differs},
		"more came back": {falsified(func(r *receipt.Receipt) { r.Down.Bytes += 1 << 20 }), flow.Differs},
		"another server": {falsified(func(r *receipt.Receipt) {
			if r.Server.Addr().Is4() == elsewhere.Addr().Is4() { // there may be receipts of another family's turn still
				r.Server = elsewhere
			}
		}), flow.Astray},
		"without signature": {func(g *receipt.Signed) { g.Signature[3]++ }, flow.Forged},
		"changed": {func(g *receipt.Signed) {
			g.Sheet = bytes.Clone(g.Sheet)
			g.Sheet[len(g.Sheet)-1]++
		}, flow.Forged},
		"another's": {func(g *receipt.Signed) {
			s, _ := receipt.Parse(g.Sheet)
			_, other, _ := ed25519.GenerateKey(nil)
			*g = s.Sign(other)
		}, flow.Forged},
		"replayed": {func(g *receipt.Signed) {
			if old == nil {
				old = &receipt.Signed{Version: g.Version, Sheet: g.Sheet, Signature: g.Signature, Key: g.Key}
				return
			}
			*g = *old
		}, flow.Forged},
	} {
		t.Run(name, func(t *testing.T) {
			one := d.tunnel(t, "far")
			var door *liar.Door
			door, one.Gateway.Address = d.lying(t)
			s, stop := serve(t, t.TempDir(), one)
			defer stop()
			a := newAudited(t, s, world)
			conn := a.connect(t, net.JoinHostPort(a.world, "80"))
			r := bufio.NewReader(conn)
			if err := get(conn, r, 50_000); err != nil {
				t.Fatal(err)
			}
			if name == "replayed" || name == "another's" {
				a.agrees(t, 1) // the gateway's key is known by now
			}
			time.Sleep(3500 * time.Millisecond) // what began with the node's records is excused
			if err := get(conn, r, 50_000); err != nil {
				t.Fatal(err)
			}
			door.Tells(c.lie)
			v := a.wrong(t, c.is)
			if !v.Cut {
				t.Errorf("it goes on: %s", inWords([]flow.Verdict{v}))
			}
			eventually(t, "the end of the connection", func() bool { // the application may have another one, that is decided anew
				return !slices.ContainsFunc(a.engine.Flows(), func(f intercept.Flow) bool { return f.Local == v.Local })
			})
		})
	}
}

// TestRootReceiptsAstray has connections go by another way, and others of which the interceptor says nothing.
func TestRootReceiptsAstray(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	d.pages(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { strays(t, d, f.world, f.loopback) })
	}
}

func strays(t *testing.T, d *distance, world, loopback string) {
	s, stop := serve(t, t.TempDir(), d.tunnel(t, "far"))
	defer stop()
	a := newAudited(t, s, world)
	time.Sleep(3500 * time.Millisecond) // what began with the node's records is excused
	elsewhere, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	go network.Serve(elsewhere, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	a.round(t)
	a.astray.Store(true)
	if _, err := a.connect(t, elsewhere.Addr().String()).Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an account", func() bool { return len(a.engine.Accounts(a.next, 0, 10).List) > 0 })
	if v := a.wrong(t, flow.Astray); v.Remote.String() != elsewhere.Addr().String() || v.Receipt != nil {
		t.Errorf("told as %s", inWords([]flow.Verdict{v}))
	}
	server := net.JoinHostPort(world, "7777")
	conn, r, _, err := a.dialTo(t, a.way, server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	network.Bounce(t, conn, r, 5000)
	if v := a.wrong(t, flow.Unclaimed); v.Remote.String() != server || !v.Cut || v.Receipt == nil {
		t.Errorf("told as %s", inWords([]flow.Verdict{v}))
	}
	if _, err := io.CopyN(conn, network.Zeroes{}, 1); err == nil {
		if _, err = r.ReadByte(); err == nil {
			t.Error("the connection that nobody claims goes on")
		}
	}
}

// bounces has datagrams be sent back by a port of the world, twice as long.
func (d *distance) bounces(t testing.TB, port int) {
	t.Helper()
	var c *net.UDPConn
	if err := d.behind.Do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		for b := make([]byte, 2000); ; {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = c.WriteToUDPAddrPort(make([]byte, 2*n), from)
		}
	}()
}

// TestRootReceiptsOfDatagrams has honest datagrams of either family agree with the gateway, also where some are lost and when either side is started
// anew; one that nobody has counted is told, and its socket ended.
func TestRootReceiptsOfDatagrams(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	d.bounces(t, 53)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { datagrams(t, d, netip.MustParseAddr(f.world)) })
	}
}

func datagrams(t *testing.T, d *distance, world netip.Addr) {
	dir, one := t.TempDir(), d.tunnel(t, "far")
	s, stop := serve(t, dir, one)
	defer func() { stop() }()
	a := newAudited(t, s, world.String())
	resolver := netip.AddrPortFrom(world, 53)
	a.query(t, resolver, 50)
	a.agrees(t, 1)
	heal := d.lossy(t, 10)
	for range 5 {
		a.query(t, resolver, 10)
		a.agrees(t, 1)
	}
	heal()
	d.stop()
	a.query(t, resolver, 3)
	d.start(t)
	a.query(t, resolver, 10)
	a.agrees(t, 1)
	stop()
	s, stop = serve(t, dir, one)
	a.goOn(t, s)
	a.query(t, resolver, 10)
	a.agrees(t, 1)

	a = newAudited(t, s, world.String())
	a.query(t, resolver, 5)
	a.agrees(t, 1)
	a.asked[0].Received++
	if v := a.wrong(t, flow.Differs); v.Remote != resolver || v.Protocol != unix.IPPROTO_UDP || v.Cut {
		t.Errorf("an answer that came by another way is told as %s", inWords([]flow.Verdict{v}))
	}
	time.Sleep(3500 * time.Millisecond) // what began with the node's records is excused
	hidden := a.socket(t, netip.AddrPortFrom(world, 54))
	if _, err := hidden.Write([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	if v := a.wrong(t, flow.Unclaimed); v.Local.String() != hidden.LocalAddr().String() || !v.Cut || v.Receipt == nil {
		t.Errorf("told as %s", inWords([]flow.Verdict{v}))
	}
	_ = hidden.SetReadDeadline(time.Now().Add(patience))
	for end := time.Now().Add(patience); ; {
		_, err := hidden.Read(make([]byte, 1))
		if errors.Is(err, unix.ECONNABORTED) {
			break
		}
		if time.Now().After(end) || !errors.Is(err, unix.ECONNREFUSED) { // nobody is on that port
			t.Fatalf("the socket that nobody counts goes on: %v", err)
		}
	}
}
