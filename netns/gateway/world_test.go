package gateway

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/test/certificates"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// Addresses: a node and its gateway, and a server behind the gateway's uplink, which knows the way to the uplink's addresses only.
const (
	nodeAt, gatewayAt = "203.0.113.2", "203.0.113.1"
	uplink4, uplink6  = "198.51.100.2", "2001:db8::2"
	server4, server6  = "198.51.100.1", "2001:db8::1"
	serverPort, udpAt = "7777", 51820
	nodeName          = "node-1"
	patience          = 30 * time.Second
)

// world is a node's network namespace, a gateway's, and what is behind that.
type world struct {
	node, at, behind *enter.Namespace
	config           Config
	authority        *certificates.Authority
	gateway          *Gateway
	door             string // https://…
	stop             func()
}

func newKey(t testing.TB) wg.Key {
	t.Helper()
	var k wg.Key
	if _, err := rand.Read(k[:]); err != nil {
		t.Fatal(err)
	}
	return k
}

// newWorld makes a world whose gateway serves.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	root.Test(t)
	w := &world{node: network.Of(t), at: network.Of(t), behind: network.Of(t), authority: certificates.New(t)}
	err := errors.Join(
		network.Join(network.End{In: w.node, Name: "node0", Addresses: []string{nodeAt + "/24"}}, network.End{In: w.at, Name: "down0", Addresses: []string{gatewayAt + "/24"}}),
		network.Join(network.End{In: w.at, Name: "up0", Addresses: []string{uplink4 + "/24", uplink6 + "/64"}},
			network.End{In: w.behind, Name: "world0", Addresses: []string{server4 + "/24", server6 + "/64"}}))
	if err != nil {
		t.Fatal(err)
	}
	serveNames(t, w.behind)
	w.config = Config{
		Private: newKey(t), Port: udpAt, Endpoints: []string{fmt.Sprintf("%s:%d", gatewayAt, udpAt)}, Pool4: netip.MustParsePrefix("10.8.0.0/22"),
		Pool6: netip.MustParsePrefix("fd08::/64"), Uplink: "up0", MTU: 1420, Term: time.Minute, Leases: 1000, State: t.TempDir(),
		Clients: []Client{{Name: nodeName, Leases: 1000}, {Name: "node-2", Leases: 10}},
	}
	if change != nil {
		change(&w.config)
	}
	w.start(t)
	t.Cleanup(func() { w.stop() })
	return w
}

// start opens the gateway and its door, which is on this process's loopback, so that clients need no thread inside.
func (w *world) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if w.gateway, err = Open(ctx, w.at, w.config); err != nil {
		cancel()
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w.door = "https://" + l.Addr().String()
	d := NewDoor(w.gateway, w.authority.Credentials(t, "127.0.0.1", w.authority))
	served, ran := make(chan error, 1), make(chan struct{})
	go func() { served <- d.Serve(ctx, l) }()
	go func() {
		defer close(ran)
		w.gateway.Run(ctx)
	}()
	w.stop = func() {
		w.stop = func() {}
		cancel()
		<-ran
		if err := errors.Join(<-served, w.gateway.Close()); err != nil {
			t.Error(err)
		}
	}
}

// client is a node's, by the name in its certificate.
func (w *world) client(t testing.TB, name string) *provision.Client {
	t.Helper()
	c, err := provision.NewClient(w.door, w.authority.Credentials(t, name, w.authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// peer is a namespace of a node's, a container's for one, whose only device is a tunnel. Its UDP socket is the node's.
type peer struct {
	ns      *enter.Namespace
	device  *device.Device
	private wg.Key
	granted *provision.Granted
}

func (w *world) peer(t testing.TB, c *provision.Client, mtu int) *peer {
	t.Helper()
	p := &peer{ns: network.Of(t), private: newKey(t)}
	var err error
	if p.granted, err = c.Allocate(t.Context(), provision.Allocate{PublicKey: p.private.Public().Text(), Preshared: true}); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, a := range p.granted.Lease.Addresses {
		addresses = append(addresses, a.String())
	}
	on, err := network.TUN(p.ns, "wg0", mtu, addresses...)
	if err != nil {
		t.Fatal(err)
	}
	network.In(t, w.node, func() (err error) {
		p.device, _, err = network.WireGuard(on, p.settings(p.granted))
		return err
	})
	t.Cleanup(p.device.Close)
	return p
}

// settings are those of the device for what was granted, with which it speaks at once, as tunneld does.
func (p *peer) settings(g *provision.Granted) string {
	public, _ := wg.ParseKey(g.Server.PublicKey)
	shared, _ := wg.ParseKey(g.Lease.PresharedKey)
	return fmt.Sprintf("private_key=%x\nreplace_peers=true\npublic_key=%x\npreshared_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\npersistent_keepalive_interval=1\n",
		p.private[:], public[:], shared[:], g.Server.Endpoints[0])
}

// address is one of the peer's, of IPv6 or not.
func (p *peer) address(six bool) netip.Addr {
	for _, a := range p.granted.Lease.Addresses {
		if a.Addr().Is6() == six {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// serveNames answers each connection with the address that it came from, then sends what it gets back.
func serveNames(t testing.TB, ns *enter.Namespace) {
	t.Helper()
	network.In(t, ns, func() error {
		l, err := net.Listen("tcp", ":"+serverPort)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go network.Echo(l)
		return nil
	})
}

// dial connects from a namespace.
func dial(t testing.TB, ns *enter.Namespace, to string, within time.Duration) (c net.Conn, err error) {
	t.Helper()
	err = ns.Do(func() error {
		c, err = (&net.Dialer{Timeout: within}).Dial("tcp", to)
		return err
	})
	return c, err
}

// seenAs is the address that the server sees a peer's connection come from.
func (p *peer) seenAs(t testing.TB, server string) (string, error) {
	t.Helper()
	c, err := dial(t, p.ns, net.JoinHostPort(server, serverPort), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
