package egress

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// Addresses: the container's, its router's, and those of a server that is reached both by the container's uplink, where it says
// "direct", and by every gateway, where it says the gateway's name.
const (
	inside4, inside6   = "10.99.0.2", "fd99::2"
	outside4, outside6 = "10.99.0.1", "fd99::1"
	server4, server6   = "198.51.100.1", "2001:db8::1"
	port               = "7777"
	interceptorPort    = 15001
)

// world is a container's network namespace, the world behind its uplink, and gateways with a world of their own each.
type world struct {
	inside, outside *enter.Namespace
	space           *Space
	workload, agent *process // a container's process, and one where the interceptor is
	seen            *capture // what leaves by the uplink
	group           group    // the interceptor's
}

func newWorld(t testing.TB, web bool) *world {
	t.Helper()
	w := newClosed(t, web)
	w.agent.wants(t, "", "listen", fmt.Sprintf(":%d", interceptorPort), "as=interceptor")
	return w
}

// newClosed is a world whose interceptor does nothing yet.
func newClosed(t testing.TB, web bool) *world {
	t.Helper()
	root.Test(t)
	w := &world{inside: network.Of(t), outside: network.Of(t)}
	w.link(t)
	serve(t, w.outside, "direct")
	w.seen = watch(t, w.outside, "out0")
	group := newCgroup(t, "agent")
	ns, err := w.inside.Again()
	if err != nil {
		t.Fatal(err)
	}
	if w.space, err = Open(ns, Base{Interceptor: group.id, Port: interceptorPort, Web: web, Pass: nft.NewPass()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.space.Close(); err != nil {
			t.Error(err)
		}
	})
	w.group = group
	w.workload, w.agent = w.start(t, newCgroup(t, "workload").dir), w.start(t, group.dir)
	return w
}

// cgroup of the v2 hierarchy.
type group struct {
	dir string
	id  nft.Cgroup
}

func newCgroup(t testing.TB, name string) group {
	t.Helper()
	dir, id := child.Group(t, name)
	return group{dir, nft.Cgroup{ID: id, Level: 1}}
}

func (w *world) link(t testing.TB) {
	t.Helper()
	err := network.Join(
		network.End{In: w.outside, Name: "out0", Addresses: []string{outside4 + "/24", outside6 + "/64", server4, server6}},
		network.End{In: w.inside, Name: "in0", Addresses: []string{inside4 + "/24", inside6 + "/64"}, Gateways: []string{outside4, outside6}})
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers with a name, on all addresses of a namespace.
func serve(t testing.TB, ns *enter.Namespace, name string) {
	t.Helper()
	network.In(t, ns, func() error {
		for _, at := range []string{port, "443", "853"} {
			l, err := net.Listen("tcp", ":"+at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			go answer(l, name)
			addrs, err := net.InterfaceAddrs()
			if err != nil {
				return err
			}
			for _, a := range addrs {
				p, err := net.ListenPacket("udp", net.JoinHostPort(netip.MustParsePrefix(a.String()).Addr().String(), at))
				if errors.Is(err, unix.EINVAL) {
					continue // an address of the link needs its name
				}
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = p.Close() })
				go tell(p, name)
			}
		}
		return nil
	})
}

// tell answers every datagram with a name.
func tell(p net.PacketConn, name string) {
	b := make([]byte, 2048)
	for {
		_, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = p.WriteTo([]byte(name+"\n"), from)
	}
}

// gateway is a WireGuard peer with a world behind it, in a namespace. Its UDP socket is on this machine's loopback.
type gateway struct {
	ns      *enter.Namespace
	name    string
	device  *device.Device
	private wg.Key
	at      netip.AddrPort
	peers   int
}

func newKey(t testing.TB) wg.Key {
	t.Helper()
	var k wg.Key
	if _, err := rand.Read(k[:]); err != nil {
		t.Fatal(err)
	}
	return k
}

func newGateway(t testing.TB, name string, mtu int) *gateway {
	t.Helper()
	g := &gateway{ns: network.Of(t), name: name, private: newKey(t)}
	on, err := network.TUN(g.ns, "gw0", mtu, server4, server6)
	if err != nil {
		t.Fatal(err)
	}
	if g.device, g.at, err = network.WireGuard(on, fmt.Sprintf("private_key=%x\n", g.private[:])); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.device.Close)
	serve(t, g.ns, name)
	return g
}

// slot makes a peer of the gateway: what a container's end of a tunnel is configured with.
func (g *gateway) slot(t testing.TB, mtu int) (wg.Config, []netip.Prefix) {
	t.Helper()
	g.peers++
	c := wg.Config{MTU: mtu, Private: newKey(t), Peer: g.private.Public(), Shared: newKey(t), Endpoint: g.at}
	public := c.Private.Public()
	addresses := []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.8.0.%d/32", g.peers+1)), netip.MustParsePrefix(fmt.Sprintf("fd08::%d/128", g.peers+1)),
	}
	if err := g.device.IpcSet(fmt.Sprintf("public_key=%x\npreshared_key=%x\nallowed_ip=%s\nallowed_ip=%s\n",
		public[:], c.Shared[:], addresses[0], addresses[1])); err != nil {
		t.Fatal(err)
	}
	return c, addresses
}

// attach makes a gateway and a tunnel to it.
func (w *world) attach(t testing.TB, name string, mtu int) (*gateway, *Way) {
	t.Helper()
	g := newGateway(t, name, mtu)
	c, addresses := g.slot(t, mtu)
	way, err := w.space.Attach(c.Plan(addresses))
	if err != nil {
		t.Fatal(err)
	}
	return g, way
}

// received is how much came through the gateway's tunnels, in bytes.
func (g *gateway) received(t testing.TB) (n int64) {
	t.Helper()
	text, err := g.device.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if b, ok := strings.CutPrefix(strings.TrimSpace(line), "rx_bytes="); ok {
			m, _ := strconv.ParseInt(b, 10, 64)
			n += m
		}
	}
	return n
}

// capture records what arrives by a device, from the other end of the container's uplink.
type capture struct {
	mu     sync.Mutex
	frames []string // guarded by mu
}

func watch(t testing.TB, ns *enter.Namespace, device string) *capture {
	t.Helper()
	c := &capture{}
	stop, err := network.Watch(ns, device, func(packet []byte, outgoing bool) {
		if outgoing {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.frames = append(c.frames, describe(packet))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return c
}

// describe is a packet in words: protocol and destination.
func describe(b []byte) string {
	var proto byte
	var to netip.Addr
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		proto, to, rest = b[9], netip.AddrFrom4([4]byte(b[16:20])), b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		proto, to, rest = b[6], netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	default:
		return "other"
	}
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		if len(rest) >= 4 {
			name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[proto]
			text := name + " " + netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:])).String()
			if dscp := binary.BigEndian.Uint16(b) << 4 >> 10; b[0]>>4 == 4 && b[1]>>2 != 0 {
				text += fmt.Sprint(" dscp ", b[1]>>2)
			} else if b[0]>>4 == 6 && dscp != 0 {
				text += fmt.Sprint(" dscp ", dscp)
			}
			return text
		}
	}
	return fmt.Sprintf("protocol %d %s", proto, to)
}

// of are the packets seen that begin with one of the words; none are forgotten.
func (c *capture) of(words ...string) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		for _, w := range words {
			if strings.HasPrefix(f, w) {
				found = append(found, f)
			}
		}
	}
	return found
}

// settle waits until the capture has all that was sent: a datagram that may pass is seen after them.
func (w *world) settle(t testing.TB) {
	t.Helper()
	before := len(w.seen.of("udp " + outside4 + ":" + port))
	for end := time.Now().Add(6 * patience); time.Now().Before(end); {
		_, _ = w.workload.Ask(t, "udp", outside4+":"+port)
		if len(w.seen.of("udp "+outside4+":"+port)) > before {
			return
		}
	}
	t.Fatal("the capture sees nothing, not even what may pass")
}

// none fails the test where the uplink has seen such packets.
func (w *world) none(t testing.TB, words ...string) {
	t.Helper()
	w.settle(t)
	if leaked := w.seen.of(words...); len(leaked) > 0 {
		t.Errorf("leaked by the uplink: %q", leaked)
	}
}
