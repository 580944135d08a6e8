package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// counted waits until a cause has dropped packets.
func (w *world) counted(t testing.TB, c nft.Counter) {
	t.Helper()
	eventually(t, fmt.Sprintf("packets dropped as %s", c), func() bool { return w.count(t, c) > 0 })
}

// count is how many packets a cause has dropped.
func (w *world) count(t testing.TB, c nft.Counter) uint64 {
	t.Helper()
	var counts map[nft.Counter]uint64
	network.In(t, w.at, func() (err error) {
		counts, err = nft.GatewayCounts()
		return err
	})
	return counts[c]
}

// reaches checks that a peer gets out by both families, as the gateway.
func (w *world) reaches(t testing.TB, p *peer) {
	t.Helper()
	for server, as := range map[string]string{server4: uplink4, server6: uplink6} {
		if got, err := p.seenAs(t, server); err != nil || got != as {
			t.Errorf("%s sees %q: %v", server, got, err)
		}
	}
}

// TestRootLease has a node's peers reach the world behind a gateway, as the gateway, and nothing else.
func TestRootLease(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(t, nodeName)
	one, other := w.peer(t, c, 1420), w.peer(t, c, 1420)
	w.reaches(t, one)
	w.reaches(t, other)
	fails := func(p *peer, to netip.Addr) {
		t.Helper()
		if c, err := dial(t, p.ns, netip.AddrPortFrom(to, 7777).String(), 300*time.Millisecond); err == nil {
			_ = c.Close()
			t.Errorf("%s was reached", to)
		}
	}

	serveNames(t, other.ns)
	serveNames(t, w.at) // on all of the gateway's addresses
	for _, six := range []bool{false, true} {
		fails(one, other.address(six))
		own := w.gateway.addresses.of(ownNumber)
		fails(one, own[len(own)-1].Addr())
	}
	w.counted(t, nft.Between)
	fails(one, netip.MustParseAddr(uplink4))
	w.counted(t, nft.Local)
	fails(one, netip.MustParseAddr(nodeAt)) // behind the gateway's other device
	w.counted(t, nft.Astray)
	network.In(t, w.behind, func() error { // and from outside
		_, pool, _ := net.ParseCIDR("10.8.0.0/22")
		return netlink.RouteAdd(&netlink.Route{Dst: pool, Gw: net.ParseIP(uplink4)})
	})
	if c, err := dial(t, w.behind, netip.AddrPortFrom(other.address(false), 7777).String(), 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a peer is open to the outside")
	}
	w.counted(t, nft.Unasked)
	w.reaches(t, one)
}

// TestRootSpoofed has a peer send from another one's address, and the world from a peer's.
func TestRootSpoofed(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(t, nodeName)
	one, other := w.peer(t, c, 1420), w.peer(t, c, 1420)
	w.reaches(t, one)
	seen := watch(t, w.behind, "world0")
	send := func(from string) {
		t.Helper()
		network.In(t, one.ns, func() error {
			link, err := netlink.LinkByName("wg0")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(from + "/32")
			if err == nil {
				err = netlink.AddrReplace(link, a)
			}
			if err != nil {
				return err
			}
			p, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.ParseIP(server4), Port: 9999})
			if err != nil {
				return err
			}
			_, err = p.Write([]byte("spoofed " + from))
			return errors.Join(err, p.Close())
		})
	}
	send(other.address(false).String())
	send("192.0.2.77")
	send(one.address(false).String()) // the allowed one comes last
	eventually(t, "the datagram from the peer's own address", func() bool { return strings.Contains(seen.text(), "spoofed "+one.address(false).String()) })
	for _, from := range []string{other.address(false).String(), "192.0.2.77"} {
		if strings.Contains(seen.text(), "spoofed "+from) {
			t.Errorf("a datagram from %s came out", from)
		}
	}
	if strings.Contains(seen.text(), "10.8.") && strings.Contains(seen.sources(), "10.8.") {
		t.Errorf("an inner address came out: %s", seen.sources())
	}

	network.In(t, w.behind, func() error { // from outside as if from a peer
		link, err := netlink.LinkByName("world0")
		if err != nil {
			return err
		}
		a, _ := netlink.ParseAddr(other.address(false).String() + "/32")
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		p, err := net.DialUDP("udp", &net.UDPAddr{IP: a.IP}, &net.UDPAddr{IP: net.ParseIP(uplink4), Port: 9})
		if err != nil {
			return err
		}
		_, err = p.Write([]byte("x"))
		return errors.Join(err, p.Close())
	})
	w.counted(t, nft.Spoofed)
}

// TestRootSegments has connections fit a small tunnel, without ICMP.
func TestRootSegments(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MTU = 1280 })
	p := w.peer(t, w.client(t, nodeName), 1420) // the node's own side is larger
	for _, server := range []string{server4, server6} {
		c, err := dial(t, p.ns, net.JoinHostPort(server, serverPort), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		mss := 0
		if err := raw.Control(func(fd uintptr) { mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }); err != nil {
			t.Fatal(err)
		}
		if mss == 0 || mss > 1280-40 {
			t.Errorf("segments of %d bytes to %s", mss, server)
		}
		echoes(t, c, 1<<20)
	}
}

// echoes reads whom the server sees, sends n bytes, and wants them back.
func echoes(t testing.TB, c net.Conn, n int64) {
	t.Helper()
	r := bufio.NewReader(c)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	bounce(t, c, r, n)
}

// bounce is network.Bounce, within a minute.
func bounce(t testing.TB, c net.Conn, r io.Reader, n int64) int {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return network.Bounce(t, c, r, n)
}

// TestRootRestart has a gateway come back with 100 leases: all work, none is lost or doubled, and connections go on.
func TestRootRestart(t *testing.T) {
	const leases = 100
	w := newWorld(t, func(c *Config) { c.Term = 10 * time.Minute }) // an emulated machine takes one for the peers
	c := w.client(t, nodeName)
	var peers []*peer
	for range leases {
		peers = append(peers, w.peer(t, c, 1420))
	}
	open, err := dial(t, peers[0].ns, net.JoinHostPort(server4, serverPort), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	before := leasesOf(t, c)
	w.stop()
	for name, want := range map[string]string{"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0"} {
		network.In(t, w.at, func() error {
			got, err := os.ReadFile("/proc/sys/net/" + name)
			if err == nil && strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %s after the gateway", name, got)
			}
			return err
		})
	}
	w.start(t)
	c = w.client(t, nodeName)
	after := leasesOf(t, c)
	if len(before) != leases || !maps.Equal(before, after) {
		t.Errorf("%d leases before, %d after, or they differ", len(before), len(after))
	}
	seen := make(map[string]bool)
	for _, addresses := range after {
		if seen[addresses] {
			t.Errorf("two leases have %s", addresses)
		}
		seen[addresses] = true
	}
	begun := time.Now()
	echoes(t, open, 1<<16)
	if took := time.Since(begun); took > 11*time.Second {
		t.Errorf("a connection went on after %s: the gateway did not speak first, peers notice after 15 s", took)
	}
	for _, p := range peers {
		if got, err := p.seenAs(t, server4); err != nil || got != uplink4 {
			t.Errorf("after a restart a peer is seen as %q: %v", got, err)
		}
	}
	w.peer(t, c, 1420) // a new one has other addresses
	if all := leasesOf(t, c); len(all) != leases+1 {
		t.Errorf("%d leases with a new one", len(all))
	}
}

// leasesOf are a client's leases and their addresses.
func leasesOf(t testing.TB, c *provision.Client) map[string]string {
	t.Helper()
	s, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, l := range s.Leases {
		all[l.ID] = fmt.Sprint(l.Addresses)
	}
	return all
}

// TestRootExpiry has leases end that nobody renews, and one that is renewed go on.
func TestRootExpiry(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Term = 3 * time.Second })
	c := w.client(t, nodeName)
	kept, late := w.peer(t, c, 1420), w.peer(t, c, 1420)
	w.reaches(t, late)
	eventually(t, "the end of a lease", func() bool {
		r, err := c.Renew(t.Context(), []string{kept.granted.Lease.ID})
		if err != nil || len(r.Gone) > 0 {
			t.Fatalf("renewed: %+v, %v", r, err)
		}
		time.Sleep(100 * time.Millisecond) // a node asks no faster
		return len(leasesOf(t, c)) == 1
	})
	if c, err := dial(t, late.ns, net.JoinHostPort(server4, serverPort), 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a lease that has ended still works")
	}
	w.reaches(t, kept)
	r, err := c.Renew(t.Context(), []string{late.granted.Lease.ID})
	if err != nil || len(r.Gone) != 1 {
		t.Errorf("one that has ended, renewed: %+v, %v", r, err)
	}
	if err := c.Release(t.Context(), kept.granted.Lease.ID); err != nil {
		t.Error(err)
	}
	if peers, err := w.gateway.plane.peers(); err != nil || len(peers) != 0 {
		t.Errorf("peers without a lease: %v, %v", peers, err)
	}
	body, err := os.ReadFile(filepath.Join(w.config.State, journalName))
	left, bad, unread := readJournal(strings.NewReader(string(body)))
	if err != nil || unread != nil || bad != 0 || len(left) != 0 {
		t.Errorf("written down: %v, %d, %v %v", left, bad, err, unread)
	}
}

// TestRootRekey changes the key of a lease under a transfer.
func TestRootRekey(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(t, nodeName)
	p := w.peer(t, c, 1420)
	open, err := dial(t, p.ns, net.JoinHostPort(server4, serverPort), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	moved := 0
	go func() {
		defer close(done)
		r := bufio.NewReader(open)
		if _, err := r.ReadString('\n'); err != nil {
			t.Error(err)
			return
		}
		for {
			select {
			case <-stop:
				return
			default:
				moved += bounce(t, open, r, 1<<18)
			}
		}
	}()
	const changes = 5
	for range changes {
		p.private = newKey(t)
		g, err := c.Rekey(t.Context(), p.granted.Lease.ID, provision.Rekey{PublicKey: p.private.Public().Text(), Preshared: true})
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(g.Lease.Addresses) != fmt.Sprint(p.granted.Lease.Addresses) {
			t.Fatalf("another key has other addresses: %v", g.Lease.Addresses)
		}
		if err := p.device.IpcSet(p.settings(g)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // under each key something is sent
	}
	close(stop)
	<-done
	t.Logf("%d KiB there and back under %d changes of the key", moved>>10, changes)
}

// TestRootRates has a class hold each lease to its rate.
func TestRootRates(t *testing.T) {
	const rate = 32 << 10 // an emulated machine has no more to spare
	w := newWorld(t, func(c *Config) {
		c.Classes = []Class{{"slow", rate}, {"fast", 100 * rate}}
		c.Clients[0].Classes = []string{"slow", "fast"}
	})
	c := w.client(t, nodeName)
	p := w.peer(t, c, 1420)
	if p.granted.Lease.Class != "slow" || p.granted.Lease.Rate != rate {
		t.Fatalf("granted %+v", p.granted.Lease)
	}
	open, err := dial(t, p.ns, net.JoinHostPort(server4, serverPort), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	begun := time.Now()
	const bytes, burst = 256 << 10, rate + 128<<10 // the kernel's bucket holds a second
	echoes(t, open, bytes)
	took := time.Since(begun)
	if least := (bytes - burst) * 95 / 100 * time.Second / rate; took < least {
		t.Errorf("%d bytes in %s, at a rate of %d", bytes, took, rate)
	}
	t.Logf("%d bytes each way in %s: beyond the burst %.2f of the rate", bytes, took, (bytes-burst)/took.Seconds()/rate)
	w.counted(t, nft.Over)
	if _, err := c.Allocate(t.Context(), provision.Allocate{PublicKey: newKey(t).Public().Text(), Class: "none"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a class that there is not: %v", err)
	}
	if err := c.Release(t.Context(), p.granted.Lease.ID); err != nil {
		t.Error(err)
	}
}

// TestRootOtherBoot has a gateway that does not come to be, since its uplink is not there yet, find what one of an earlier boot wrote down.
func TestRootOtherBoot(t *testing.T) {
	root.Test(t)
	ns, c := network.Of(t), paperConfig(t)
	const forward = "/proc/sys/net/ipv4/ip_forward"
	err := ns.Do(func() error { return os.WriteFile(forward, []byte("1"), 0) })
	if err == nil {
		err = os.WriteFile(filepath.Join(c.State, settingsName), []byte(`{"of":"another 1","was":{"ipv4/ip_forward":"0"}}`), 0o600)
	}
	a, made := newAddresses(c.Pool4, c.Pool6)
	if err := errors.Join(err, made); err != nil {
		t.Fatal(err)
	}
	if _, err := openPlane(ns, c, a, nil, nil); err == nil || !strings.Contains(err.Error(), "uplink") {
		t.Fatalf("without its uplink: %v", err)
	}
	if err := ns.Do(func() error {
		b, err := os.ReadFile(forward)
		if strings.TrimSpace(string(b)) != "1" {
			t.Errorf("forwarding, which others need, is %q", b)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// set and get are settings of the gateway's namespace.
func (w *world) set(t testing.TB, name, value string) {
	t.Helper()
	network.In(t, w.at, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

func (w *world) get(t testing.TB, name string) (value string) {
	t.Helper()
	network.In(t, w.at, func() (err error) {
		value, err = readSetting(name)
		return err
	})
	return value
}

// TestRootOthers has the machine of a gateway forward for others in each family what it forwarded before, and no more, and has settings as before after it.
func TestRootOthers(t *testing.T) {
	const node6, down6 = "2001:db8:1::2", "2001:db8:1::1"
	for _, test := range []struct {
		name             string
		pools            string // families
		before4, before6 string
		passes4, passes6 bool
		off              string // a setting that somebody turns off meanwhile
	}{
		{"neither before", "46", "0", "0", false, false, ""},
		{"only IPv4 before", "46", "1", "0", true, false, forward4},
		{"only IPv6 before", "46", "0", "1", false, true, forward6},
		{"both before", "46", "1", "1", true, true, ""},
		{"IPv6 before, and no pool of it", "4", "0", "1", false, true, ""},
		{"neither before, and no pool of IPv4", "6", "0", "0", false, false, forward6},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) {
				if !strings.Contains(test.pools, "4") {
					c.Pool4 = netip.Prefix{}
				}
				if !strings.Contains(test.pools, "6") {
					c.Pool6 = netip.Prefix{}
				}
			})
			w.stop()
			lay := func(ns *enter.Namespace, device, address, to, by string) {
				network.In(t, ns, func() error {
					link, err := netlink.LinkByName(device)
					if err != nil {
						return err
					}
					if address != "" {
						a, _ := netlink.ParseAddr(address)
						a.Flags = unix.IFA_F_NODAD
						if err := netlink.AddrAdd(link, a); err != nil {
							return err
						}
					}
					if to == "" {
						return nil
					}
					_, dst, _ := net.ParseCIDR(to)
					return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(by)})
				})
			}
			lay(w.at, "down0", down6+"/64", "", "")
			lay(w.node, "node0", node6+"/64", "2001:db8::/64", down6)
			lay(w.node, "node0", "", "198.51.100.0/24", gatewayAt)
			lay(w.behind, "world0", "", "203.0.113.0/24", uplink4)
			lay(w.behind, "world0", "", "2001:db8:1::/64", uplink6)
			w.set(t, forward4, test.before4)
			w.set(t, forward6, test.before6)
			w.start(t)
			for server, passes := range map[string]bool{server4: test.passes4, server6: test.passes6} {
				if server == server4 && test.before4 == "0" && !strings.Contains(test.pools, "4") {
					continue // the kernel forwards none, and it is not the gateway's doing
				}
				before := w.count(t, nft.Strange)
				eventually(t, fmt.Sprintf("%s reached or kept from others", server), func() bool {
					c, err := dial(t, w.node, net.JoinHostPort(server, serverPort), 300*time.Millisecond)
					if err == nil {
						_ = c.Close()
					}
					if kept := w.count(t, nft.Strange) > before; passes && kept || !passes && err == nil {
						t.Fatalf("what is not of peers, to %s: %v, kept out: %v", server, err, kept)
					}
					return err == nil || w.count(t, nft.Strange) > before
				})
			}
			want := map[string]string{forward4: test.before4, forward6: test.before6}
			if test.off != "" {
				want[test.off] = "0"
				w.set(t, test.off, "0")
			}
			w.stop()
			for name, value := range want {
				if got := w.get(t, name); got != value {
					t.Errorf("%s is %s after the gateway, wanted %s", name, got, value)
				}
			}
		})
	}
}

// TestRootAnotherPool has a gateway with another pool take over from one that was killed: what either has changed is as before after it.
func TestRootAnotherPool(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Pool6 = netip.Prefix{} })
	path := filepath.Join(w.config.State, settingsName)
	left, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := os.WriteFile(path, left, 0o600); err != nil {
		t.Fatal(err)
	}
	w.set(t, forward4, "1")
	w.config.Pool6 = netip.MustParsePrefix("fd08::/64")
	w.start(t)
	w.reaches(t, w.peer(t, w.client(t, nodeName), 1420))
	w.stop()
	for _, name := range []string{forward4, forward6} {
		if got := w.get(t, name); got != "0" {
			t.Errorf("%s is %s after the gateway", name, got)
		}
	}
}

// TestRootFlushed has rules come back that somebody took away, all of them or some.
func TestRootFlushed(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Classes = []Class{{"bulk", 1 << 20}}
		c.Clients[0].Classes = []string{"bulk"}
	})
	if _, err := w.gateway.Allocate(nodeName, allocate(t)); err != nil { // not by the door, whose clients have five seconds
		t.Fatal(err)
	}
	nft := func(args ...string) string {
		t.Helper()
		var out []byte
		network.In(t, w.at, func() (err error) {
			if out, err = exec.Command("nft", args...).CombinedOutput(); err != nil {
				err = fmt.Errorf("nft %q: %w: %s", args, err, out)
			}
			return err
		})
		return string(out)
	}
	whole := nft("-s", "list", "ruleset")
	if gone, err := w.gateway.plane.mend(nil); gone || err != nil {
		t.Fatalf("rules that nobody touched are gone: %v, %v", gone, err)
	}
	for _, flush := range []string{"flush ruleset", "flush table inet forefend-gateway", "flush chain inet forefend-gateway between", "flush chain inet forefend-gateway up-bulk",
		"insert rule inet forefend-gateway peers accept"} {
		nft(strings.Fields(flush)...)
		eventually(t, "all rules after nft "+flush, func() bool {
			var out []byte
			network.In(t, w.at, func() error {
				out, _ = exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
				return nil
			})
			return string(out) == whole
		})
	}
	if f := w.gateway.Figures(); f.Mended < 5 || f.Dropped == nil || f.Leases != 1 {
		t.Errorf("%+v", f)
	}
}
