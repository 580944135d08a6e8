package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	away "forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/certificates"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// nodeMode has the number of the cgroup that this test binary is in, alone in a network namespace: a node's.
const nodeMode = "FOREFEND_TUNNEL_TEST_NODE"

// onNode tells whether this process is on a node of its own. Where it is not, another one is started that is and runs the same test.
func onNode(t testing.TB) bool {
	t.Helper()
	root.Test(t)
	if os.Getenv(nodeMode) != "" {
		if err := network.Up("lo"); err != nil {
			t.Fatal(err)
		}
		return true
	}
	dir, id := child.Group(t, "node")
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	args := []string{"-test.v", "-test.run", "^" + t.Name() + "$"}
	if _, ok := t.(*testing.B); ok {
		args = []string{"-test.run", "^$", "-test.bench", "^" + t.Name() + "$", "-test.benchtime", benchTime()}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", nodeMode, id))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	out, err := cmd.CombinedOutput()
	if _, ok := t.(*testing.B); ok {
		_, _ = os.Stdout.Write(out) // the figures
	} else {
		t.Logf("on a node:\n%s", out)
	}
	if err != nil {
		t.Fatalf("on a node: %v", err)
	}
	return false
}

// benchTime is the flag -test.benchtime of this process.
func benchTime() string {
	for _, a := range os.Args {
		if v, ok := strings.CutPrefix(a, "-test.benchtime="); ok {
			return v
		}
	}
	return "1x"
}

// Addresses: of this node and its gateway, and of a server behind that, which knows the way to the gateway's uplink only.
const (
	nodeAt, gatewayAt = "203.0.113.2", "203.0.113.1"
	uplinkAt, worldAt = "198.51.100.2", "198.51.100.1"
	uplink6At         = "2001:db8:64::2"
	world6At          = "2001:db8:64::1"
	serverAt          = worldAt + ":7777"
)

// distance is a gateway far away, with a world behind it.
type distance struct {
	at, behind *enter.Namespace
	config     away.Config
	authority  *certificates.Authority
	gateway    *away.Gateway
	stop       func()
}

func newDistance(t testing.TB, change func(*away.Config)) *distance {
	t.Helper()
	d := &distance{at: network.Of(t), behind: network.Of(t), authority: certificates.New(t)}
	node, err := enter.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	err = errors.Join(
		network.Join(network.End{In: node, Name: "node0", Addresses: []string{nodeAt + "/24"}}, network.End{In: d.at, Name: "down0", Addresses: []string{gatewayAt + "/24"}}),
		network.Join(network.End{In: d.at, Name: "up0", Addresses: []string{uplinkAt + "/24", uplink6At + "/64"}},
			network.End{In: d.behind, Name: "world0", Addresses: []string{worldAt + "/24", world6At + "/64"}}))
	if err != nil {
		t.Fatal(err)
	}
	d.config = away.Config{
		Private: newPrivate(), Port: 51820, Endpoints: []string{gatewayAt + ":51820"}, Pool4: netip.MustParsePrefix("10.8.0.0/20"),
		Pool6: netip.MustParsePrefix("fd08::/64"), Uplink: "up0", MTU: 1420, Term: time.Minute, Leases: 4000, State: t.TempDir(), Clients: []away.Client{{Name: "node-1", Leases: 4000}},
	}
	if change != nil {
		change(&d.config)
	}
	if err := d.behind.Do(func() error { return echo(t, ":7777") }); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	t.Cleanup(func() { d.stop() })
	return d
}

// start opens the gateway and its door.
func (d *distance) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var l net.Listener
	err := d.at.Do(func() (err error) {
		l, err = net.Listen("tcp", gatewayAt+":7443")
		return err
	})
	if err == nil {
		d.gateway, err = away.Open(ctx, d.at, d.config)
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	served, ran := make(chan error, 1), make(chan struct{})
	door := away.NewDoor(d.gateway, d.authority.Credentials(t, gatewayAt, d.authority))
	go func() { served <- door.Serve(ctx, l) }()
	go func() {
		defer close(ran)
		d.gateway.Run(ctx)
	}()
	d.stop = func() {
		d.stop = func() {}
		cancel()
		<-ran
		if err := errors.Join(<-served, d.gateway.Close()); err != nil {
			t.Error(err)
		}
	}
}

// tunnel is one whose peers are the gateway's.
func (d *distance) tunnel(t testing.TB, name string) Tunnel {
	t.Helper()
	cert, key := d.authority.Issue(t, "node-1")
	return Tunnel{Name: name, Kind: WireGuard, Class: "far", Encryption: flow.Strong, MTU: 1420, DeadAfter: 10 * time.Second, Slots: make([]Slot, 64),
		Gateway: Gateway{Address: "https://" + gatewayAt + ":7443", CA: d.authority.File, Cert: cert, Key: key, Ready: 2, Rekey: time.Hour}}
}

// leases are how many the gateway has given this node.
func (d *distance) leases(t testing.TB) map[string]string {
	t.Helper()
	s, err := d.gateway.Stats("node-1")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, l := range s.Leases {
		all[l.ID] = fmt.Sprint(l.Addresses)
	}
	return all
}

// echo answers with the address that a connection came from, and then with what it is sent.
func echo(t testing.TB, at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = l.Close() })
	go network.Echo(l)
	return nil
}

// guarded is a container whose interceptor is this process.
type guarded struct {
	container
	ns        *enter.Namespace
	namespace uint64
}

func newGuarded(t testing.TB, s *Service) guarded {
	t.Helper()
	of := newContainer(t)
	r := of.guard()
	c := intercepted(t, of, &r)
	answer, err := s.Guard(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	c.namespace = answer.Namespace
	return c
}

// intercepted is a container that is to be guarded as r says: the interceptor is whoever is in this process's cgroup.
func intercepted(t testing.TB, of container, r *api.GuardRequest) guarded {
	t.Helper()
	_, err := fmt.Sscan(os.Getenv(nodeMode), &r.Cgroup)
	c := guarded{container: of}
	if err == nil {
		c.ns, err = enter.Process(of.pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.ns.Close() })
	return c
}

func (c guarded) ask() api.AttachRequest {
	return api.AttachRequest{Namespace: c.namespace, Profile: flow.Profile{Encryption: flow.Strong}}
}

// dial connects to the server by a tunnel, as an interceptor does, and reads as whom.
func (c guarded) dial(t testing.TB, by intercept.Way) (conn net.Conn, r *bufio.Reader, as string, err error) {
	t.Helper()
	return c.dialTo(t, by, serverAt)
}

// dialTo connects to a server of any family, as dial does.
func (c guarded) dialTo(t testing.TB, by intercept.Way, server string) (conn net.Conn, r *bufio.Reader, as string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var up intercept.Upstream
	err = c.ns.Do(func() (err error) {
		up, err = intercept.Marked{Ways: only(by)}.Dial(ctx, flow.Context{Destination: netip.MustParseAddrPort(server)}, flow.Decision{})
		return err
	})
	if err != nil {
		return nil, nil, "", err
	}
	if !up.Verified {
		t.Errorf("a socket of %+v is not as the kernel was told", by)
	}
	_ = up.Conn.SetDeadline(time.Now().Add(time.Minute))
	r = bufio.NewReader(up.Conn)
	as, err = r.ReadString('\n')
	return up.Conn, r, strings.TrimSpace(as), err
}

// only is the one way that there is.
type only intercept.Way

// Way implements intercept.Ways.
func (o only) Way(context.Context, flow.Context, flow.Decision) (intercept.Way, error) {
	return intercept.Way(o), nil
}

// wayOf is a tunnel as an interceptor is told of it.
func wayOf(a api.Attached) intercept.Way {
	return intercept.Way{Tunnel: a.Tunnel, Mark: a.Mark, Device: a.Device, Receipts: a.Receipts}
}

// described is a tunnel as the service tells of it.
func described(t testing.TB, s *Service, name string) api.Tunnel {
	t.Helper()
	all, err := s.Tunnels(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all.Tunnels, func(t api.Tunnel) bool { return t.Name == name })
	if i < 0 {
		t.Fatalf("no tunnel %s", name)
	}
	return all.Tunnels[i]
}

// TestRootProvisioned has a node get its tunnels of a gateway: in reserve, on demand, across restarts of either, and back.
func TestRootProvisioned(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, func(c *away.Config) { c.Term = 6 * time.Second })
	dir, one := t.TempDir(), d.tunnel(t, "far")
	s, stop := serve(t, dir, one)
	eventually(t, "two peers in reserve", func() bool { return described(t, s, "far").Ready == 2 })
	c := newGuarded(t, s)
	way, err := s.Attach(t.Context(), c.ask())
	if err != nil || way.Tunnel != "far" || way.Encryption != flow.Strong {
		t.Fatalf("%+v, %v", way, err)
	}
	conn, r, as, err := c.dial(t, wayOf(way))
	if err != nil || as != uplinkAt {
		t.Fatalf("the server sees %q: %v", as, err)
	}
	defer conn.Close()
	eventually(t, "two peers in reserve again", func() bool { return described(t, s, "far").Ready == 2 && len(d.leases(t)) == 3 })
	if try, err := s.Try(t.Context(), api.TryRequest{Tunnel: "far"}); err != nil || try.Handshake <= 0 || try.Endpoint != gatewayAt+":51820" {
		t.Errorf("a trial: %+v, %v", try, err)
	}

	// tunneld is started anew: the same addresses, with other keys, and the connection goes on.
	stop()
	if left := d.leases(t); len(left) != 1 {
		t.Errorf("after the end of tunneld the gateway has %v", left)
	}
	s, stop = serve(t, dir, one)
	if again, err := s.Attach(t.Context(), c.ask()); err != nil || again != way {
		t.Errorf("after a restart of tunneld: %+v, %v", again, err)
	}
	network.Bounce(t, conn, r, 1<<20)

	// The gateway is started anew, elsewhere and with another key.
	d.stop()
	d.config.Private, d.config.Port, d.config.Endpoints = newPrivate(), 51821, []string{gatewayAt + ":51821"}
	d.start(t)
	network.Bounce(t, conn, r, 1<<20)
	if used := described(t, s, "far").Uses; len(used) != 1 || used[0].Handshake.IsZero() {
		t.Errorf("used: %+v", used)
	}

	// The container ends: its lease is given back. Then this node is no client any more.
	before := d.leases(t)
	c.end()
	eventually(t, "the lease given back", func() bool { return len(d.leases(t)) == 2 })
	c = newGuarded(t, s)
	way, err = s.Attach(t.Context(), c.ask())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(before) == fmt.Sprint(d.leases(t)) {
		t.Error("another container has the lease of the first")
	}
	if err := d.gateway.SetClients(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trouble that is told", func() bool {
		return strings.Contains(described(t, s, "far").Trouble, "not in the gateway's list of clients")
	})
	if _, err := s.Attach(t.Context(), newGuarded(t, s).ask()); err == nil || !strings.Contains(err.Error(), "list of clients") {
		t.Errorf("for a revoked node: %v", err)
	}
	stop()
	if left, err := os.ReadDir(filepath.Join(dir)); err != nil || len(left) == 0 {
		t.Errorf("records: %v, %v", left, err)
	}
}

// TestRootProvisionedChanged has tunneld start anew with another configuration of the tunnel: connections that were decided for what it was
// go nowhere.
func TestRootProvisionedChanged(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	dir, one := t.TempDir(), d.tunnel(t, "far")
	s, stop := serve(t, dir, one)
	c := newGuarded(t, s)
	way, err := s.Attach(t.Context(), c.ask())
	if err != nil {
		t.Fatal(err)
	}
	before, r, _, err := c.dial(t, wayOf(way))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	network.Bounce(t, before, r, 1000)
	stop()
	one.Keepalive = 25 * time.Second
	s, stop = serve(t, dir, one)
	defer stop()
	again, err := s.Attach(t.Context(), c.ask())
	if err != nil || again.Tunnel != way.Tunnel || again.Mark == way.Mark { // agents go by the old one's mark for a while
		t.Fatalf("%+v, %v", again, err)
	}
	now, _, _, err := c.dial(t, wayOf(again))
	if err != nil {
		t.Fatal(err)
	}
	_ = now.Close()
	_ = before.SetDeadline(time.Now().Add(2 * time.Second))
	_, _ = before.Write([]byte("x")) // the kernel may take it, or refuse
	if got, err := r.ReadByte(); err == nil {
		t.Errorf("a connection by the tunnel that was: %q", got)
	}
}

// TestRootProvisionedRekey changes keys over and over under a transfer.
func TestRootProvisionedRekey(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	one := d.tunnel(t, "far")
	one.Gateway.Rekey = time.Second
	s, _ := serve(t, t.TempDir(), one)
	c := newGuarded(t, s)
	way, err := s.Attach(t.Context(), c.ask())
	if err != nil {
		t.Fatal(err)
	}
	conn, r, _, err := c.dial(t, wayOf(way))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	keys := make(map[string]bool)
	f, err := s.provisioned.of(&one)
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); len(keys) < 4; {
		network.Bounce(t, conn, r, 4<<20)
		f.mu.Lock()
		for _, one := range f.peers {
			one.mu.Lock()
			if one.device != nil {
				keys[one.private.Public().Text()] = true
			}
			one.mu.Unlock()
		}
		f.mu.Unlock()
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d keys in a minute", len(keys))
		}
	}
	if left := d.leases(t); len(left) != 3 {
		t.Errorf("leases: %v", left)
	}
}

// TestRootProvisionedUnreachable has the gateway of a tunnel not answer: another tunnel of the class takes its place, and no weaker one.
func TestRootProvisionedUnreachable(t *testing.T) {
	if !onNode(t) {
		return
	}
	d := newDistance(t, nil)
	good, gone := d.tunnel(t, "good"), d.tunnel(t, "gone")
	gone.Gateway.Address = "https://" + gatewayAt + ":7444" // where nobody listens
	gone.Name, good.Name = "a-gone", "b-good"
	weak := Tunnel{Name: "weak", Kind: WireGuard, Class: "far", Encryption: flow.Standard, Slots: make([]Slot, 4), Endpoints: []string{"203.0.113.1:1"}}
	s, _ := serve(t, t.TempDir(), gone, good, weak, Tunnel{Name: "direct", Kind: Direct, Class: "far"})
	c := newGuarded(t, s)
	ask := c.ask()
	ask.Profile.Endpoint = "far"
	way, err := s.Attach(t.Context(), ask)
	if err != nil || way.Tunnel != "b-good" {
		t.Fatalf("%+v, %v", way, err)
	}
	if down := described(t, s, "a-gone"); down.Health != string(Down) || !strings.Contains(down.Reason, "connection refused") {
		t.Errorf("%s: %s", down.Health, down.Reason)
	}
	if _, err := s.Try(t.Context(), api.TryRequest{Tunnel: "a-gone"}); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a trial: %v", err)
	}

	alone, _ := serve(t, t.TempDir(), gone, weak, Tunnel{Name: "direct", Kind: Direct, Class: "far"})
	if way, err := alone.Attach(t.Context(), newGuarded(t, alone).ask()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("with weaker tunnels only: %+v, %v", way, err)
	}
}

// BenchmarkRootProvision measures from the question for a tunnel to the first byte of the server through it, with peers in reserve and
// without. The links are of this machine, so that round trips take next to nothing.
func BenchmarkRootProvision(b *testing.B) {
	if !onNode(b) {
		return
	}
	d := newDistance(b, nil)
	for _, ready := range []int{0, 4} {
		b.Run(fmt.Sprintf("ready=%d", ready), func(b *testing.B) {
			one := d.tunnel(b, "far")
			one.Gateway.Ready = ready
			s, _ := serve(b, b.TempDir(), one)
			var took []time.Duration
			for range b.N {
				eventually(b, "peers in reserve", func() bool { return described(b, s, "far").Ready == ready })
				c := newGuarded(b, s)
				begun := time.Now()
				way, err := s.Attach(b.Context(), c.ask())
				if err != nil {
					b.Fatal(err)
				}
				conn, _, _, err := c.dial(b, wayOf(way))
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
				_ = conn.Close()
				if err := s.Release(b.Context(), api.ReleaseRequest{Namespace: c.namespace}); err != nil {
					b.Fatal(err)
				}
				c.end()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
