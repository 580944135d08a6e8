package egress

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/test/network"
)

func mark(m uint32) string { return fmt.Sprintf("mark=%#x", m) }

func at(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// counts tells whether a cause has dropped packets.
func (w *world) counted(t testing.TB, c nft.Counter) {
	t.Helper()
	counts, err := w.space.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if counts[c] == 0 {
		t.Errorf("no packet was counted as %s: %v", c, counts)
	}
}

func TestRootWays(t *testing.T) {
	w := newWorld(t, true)
	_, first := w.attach(t, "gateway-1", 1420)
	second, other := w.attach(t, "gateway-2", 1420)
	for _, server := range []string{server4, server6} {
		to := at(server, port)
		w.workload.wants(t, "interceptor", "tcp", to)
		w.agent.wants(t, "direct", "tcp", to, mark(marks.Direct))
		w.agent.wants(t, "gateway-1", "tcp", to, mark(first.Mark))
		w.agent.wants(t, "gateway-2", "tcp", to, mark(other.Mark))
		w.workload.wants(t, "direct", "udp", to)
	}
	w.workload.wants(t, "interceptor", "tcp", at(server4, port), "mapped")
	w.workload.wants(t, "interceptor", "fast", at(server4, port))
	w.workload.wants(t, "interceptor", "uring", at(server4, port)) // the kernel's own thread connects
	w.workload.wants(t, "interceptor", "tcp", at("169.254.169.254", "80"))
	w.workload.wants(t, "interceptor", "tcp", at(outside4, port)) // a neighbour on the link
	if second.received(t) == 0 {
		t.Error("the gateway has received nothing by its tunnel")
	}
	stats, err := first.Stats()
	if err != nil || stats.Handshake.IsZero() || stats.Received == 0 || stats.Sent == 0 {
		t.Errorf("the tunnel tells of itself %+v, %v", stats, err)
	}

	w.workload.wants(t, "", "listen", ":9000", "as=own") // what stays in the namespace is not the interceptor's
	for _, own := range []string{"127.0.0.1", "::1", inside4, inside6} {
		w.workload.wants(t, "own", "tcp", at(own, "9000"))
	}
	for _, own := range []string{inside4, inside6} { // and who comes from outside gets an answer
		w.comesIn(t, own)
	}
}

// comesIn has somebody from outside ask what listens at the container's port 9000 of an address.
func (w *world) comesIn(t *testing.T, own string) {
	t.Helper()
	network.In(t, w.outside, func() error {
		c, err := dial("tcp", at(own, "9000"), nil)
		if err != nil {
			return err
		}
		defer c.Close()
		name, err := hear(c)
		if name != "own" {
			t.Errorf("from outside, %s is %q: %v", own, name, err)
		}
		return nil
	})
}

// TestRootNeighbours: whoever has forgotten where the container is, or never knew, asks for it and has an answer, as the router does of a container that
// is silent for a while: else what comes back for its connections is lost, and nobody reaches it.
func TestRootNeighbours(t *testing.T) {
	w := newWorld(t, true)
	w.workload.wants(t, "", "listen", ":9000", "as=own")
	for range 2 { // also under rules that were put in force once more
		for _, own := range []string{inside4, inside6} {
			forget(t, w.outside)
			w.comesIn(t, own)
		}
		w.agent.wants(t, "direct", "tcp", at(server4, port), mark(marks.Direct)) // so that it knows its router
		forget(t, w.outside)
		w.agent.wants(t, "direct", "tcp", at(server4, port), mark(marks.Direct))
		if err := w.space.Rebase(w.space.Base()); err != nil {
			t.Fatal(err)
		}
	}
}

// forget has a namespace know none of its neighbours.
func forget(t testing.TB, ns *enter.Namespace) {
	t.Helper()
	network.In(t, ns, func() error {
		link, err := netlink.LinkByName("out0")
		if err != nil {
			return err
		}
		all, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for i := range all {
			if all[i].State&netlink.NUD_NOARP != 0 {
				continue
			}
			if err := netlink.NeighDel(&all[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestRootForbidden(t *testing.T) {
	w := newWorld(t, true)
	_, way := w.attach(t, "gateway", 1420)
	to4, to6 := at(server4, port), at(server6, port)
	forged := []string{mark(way.Mark), mark(marks.Direct), mark(marks.Inbound), "mark=0x7"}
	for _, to := range []string{to4, to6} {
		for _, m := range forged {
			w.workload.fails(t, "tcp", to, m)
			w.workload.fails(t, "udp", to, m)
		}
		for _, device := range []string{"in0", way.Device} {
			w.workload.fails(t, "tcp", to, "dev="+device)
			w.workload.fails(t, "tcp", to, "dev="+device, mark(way.Mark))
		}
		w.workload.fails(t, "tcp", to, "dev=in0", mark(marks.Direct))
		w.workload.fails(t, "uring", to4, "dev=in0", mark(marks.Direct))
		w.workload.fails(t, "udp", to, "dev="+way.Device)
		w.agent.fails(t, "tcp", to, "dev=in0", mark(way.Mark))
		w.agent.fails(t, "udp", to, "dev=in0", mark(way.Mark))
		w.agent.wants(t, "direct", "udp", to) // its datagrams, its resolver's for one, are like everybody's
	}
	w.counted(t, nft.Forged)
	for _, m := range append(forged, "mark=0") {
		_, _ = w.workload.Ask(t, "syn", to4, m)
		for _, bypass := range []string{"queue", "bypass"} {
			_, _ = w.workload.Ask(t, "frame", "in0", m, bypass)
			_, _ = w.workload.Ask(t, "frame", way.Device, m, bypass)
		}
	}
	w.counted(t, nft.Frames)
	w.none(t, "tcp")

	for _, server := range []string{server4, server6} {
		w.workload.fails(t, "udp", at(server, "443"))
		w.workload.fails(t, "udp", at(server, "853"))
	}
	w.none(t, "udp "+at(server4, "443"), "udp "+at(server6, "443"), "udp "+at(server4, "853"), "udp "+at(server6, "853"))
	for _, own := range []string{"127.0.0.1", "::1", inside4, inside6} {
		w.workload.fails(t, "tcp", at(own, fmt.Sprint(interceptorPort)))
	}
	w.counted(t, nft.Door)
	network.In(t, w.outside, func() error {
		if c, err := dial("tcp", at(inside4, fmt.Sprint(interceptorPort)), nil); err == nil {
			t.Error("the interceptor's port is open to the outside")
			return c.Close()
		}
		return nil
	})
}

// breakages are what can break of that which holds a tunnel.
var breakages = []struct {
	name    string
	breakIt func(t *testing.T, w *world, g *gateway, way *Way)
}{
	{"device down", func(t *testing.T, w *world, _ *gateway, way *Way) {
		network.In(t, w.inside, func() error {
			l, err := netlink.LinkByName(way.Device)
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(l)
		})
	}},
	{"route deleted", func(t *testing.T, w *world, _ *gateway, way *Way) {
		network.In(t, w.inside, func() error { return deleteDefault(way) })
	}},
	{"device deleted", func(t *testing.T, w *world, _ *gateway, way *Way) {
		network.In(t, w.inside, func() error {
			l, err := netlink.LinkByName(way.Device)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
	}},
	{"tunnel's process gone", func(t *testing.T, _ *world, _ *gateway, way *Way) {
		if err := way.wire.Close(); err != nil {
			t.Fatal(err)
		}
	}},
	{"gateway gone", func(_ *testing.T, _ *world, g *gateway, _ *Way) { g.device.Close() }},
	{"netfilter flushed", func(t *testing.T, w *world, _ *gateway, _ *Way) { network.In(t, w.inside, nft.Clear) }},
	{"rule leads to main", func(t *testing.T, w *world, _ *gateway, way *Way) {
		network.In(t, w.inside, func() error { return leadToMain(way) })
	}},
	{"interceptor gone", func(_ *testing.T, w *world, _ *gateway, _ *Way) {
		w.agent.End()
		w.agent = nil
	}},
}

// TestRootClosed breaks what holds a tunnel, one thing after the other, and has the interceptor and the workload try.
func TestRootClosed(t *testing.T) {
	for _, test := range breakages {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, true)
			g, way := w.attach(t, "gateway", 1420)
			w.agent.wants(t, "gateway", "tcp", at(server4, port), mark(way.Mark))
			w.workload.wants(t, "interceptor", "tcp", at(server4, port))
			test.breakIt(t, w, g, way)
			for _, server := range []string{server4, server6} {
				if w.agent != nil {
					if got, err := w.agent.Ask(t, "tcp", at(server, port), mark(way.Mark)); err == nil && got != "gateway" {
						t.Errorf("by the tunnel came %s", got)
					} else if err == nil && test.name != "netfilter flushed" {
						t.Errorf("the tunnel still works")
					}
				}
				if got, err := w.workload.Ask(t, "tcp", at(server, port)); err == nil && got != "interceptor" {
					t.Errorf("the workload reached %s", got)
				}
				if test.name != "netfilter flushed" { // only those rules stop a socket that is bound to a device (docs/decisions/0069)
					w.workload.fails(t, "tcp", at(server, port), mark(way.Mark), "dev=in0")
				}
				w.workload.fails(t, "udp", at(server, "443"))
				w.workload.fails(t, "udp", at(server, "853"))
			}
			w.none(t, "tcp", "udp "+at(server4, "443"), "udp "+at(server6, "443"), "udp "+at(server4, "853"), "udp "+at(server6, "853"))
			if test.name == "rule leads to main" {
				w.counted(t, nft.WrongDevice)
			}
		})
	}
}

// deleteDefault deletes the routes by a tunnel's device.
func deleteDefault(way *Way) error {
	n, _ := marks.Index(way.Mark)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: marks.Table(n)}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for i := range routes {
			if routes[i].Type == unix.RTN_BLACKHOLE {
				continue
			}
			if err := netlink.RouteDel(&routes[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// leadToMain has a tunnel's mark look its way up where the container's own routes are, before it would look in its table.
func leadToMain(way *Way) error {
	mask := ^uint32(0)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Mark, r.Mask = family, 10, unix.RT_TABLE_MAIN, way.Mark, &mask
		if err := netlink.RuleAdd(r); err != nil {
			return err
		}
	}
	return nil
}

// TestRootMTU moves bulk both ways by tunnels of several sizes. No ICMP is needed, since segments fit from the first.
func TestRootMTU(t *testing.T) {
	w := newWorld(t, false)
	for _, mtu := range []int{1280, 1420, 9000} {
		g, way := w.attach(t, fmt.Sprintf("gateway-%d", mtu), mtu)
		for _, server := range []string{server4, server6} {
			w.agent.wants(t, g.name, "bulk", at(server, port), mark(way.Mark), "n=1000000")
		}
	}
}

// TestRootCycles attaches and detaches, and looks for what is left.
func TestRootCycles(t *testing.T) {
	w := newWorld(t, true)
	g := newGateway(t, "gateway", 1420)
	c, addresses := g.slot(t, 1420)
	inventory := func() (list string, files int) {
		var b strings.Builder
		network.In(t, w.inside, func() error {
			links, err := link.Whole(netlink.LinkList)
			if err != nil {
				return err
			}
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				rules, err := netlink.RuleList(family)
				if err != nil {
					return err
				}
				routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
				if err != nil {
					return err
				}
				routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Table == unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_MAIN })
				fmt.Fprintln(&b, family, len(rules), "rules", len(routes), "routes")
			}
			fmt.Fprintln(&b, len(links), "devices")
			return nil
		})
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return b.String(), len(open)
	}
	once := func() {
		way, err := w.space.Attach(c.Plan(addresses))
		if err != nil {
			t.Fatal(err)
		}
		if way.Mark != marks.Tunnel(0) {
			t.Fatalf("the first number is not free again: mark %#x", way.Mark)
		}
		if err := w.space.Detach(way); err != nil {
			t.Fatal(err)
		}
	}
	once() // what is made once
	before, files := inventory()
	goroutines := runtime.NumGoroutine()
	const threads = 8 // that package enter may have kept meanwhile
	for range 200 {
		once()
	}
	for end := time.Now().Add(6 * patience); ; time.Sleep(10 * time.Millisecond) { // what a device closes, it closes in a while
		after, open := inventory()
		if after == before && open <= files && runtime.NumGoroutine() <= goroutines+threads {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("before:\n%s%d files, %d goroutines\nafter:\n%s%d files, %d goroutines", before, files, goroutines, after, open, runtime.NumGoroutine())
		}
	}
	way, err := w.space.Attach(c.Plan(addresses))
	if err != nil {
		t.Fatal(err)
	}
	w.agent.wants(t, "gateway", "tcp", at(server4, port), mark(way.Mark))
}

// TestRootIndex: a device has the index of before, unless somebody else has that by now; that of another tunnel in its place is another.
func TestRootIndex(t *testing.T) {
	w := newWorld(t, true)
	c, addresses := newGateway(t, "gateway", 1420).slot(t, 1420)
	attach := func(as uint32, index int) *Way {
		t.Helper()
		way, err := w.space.AttachAs(as, index, c.Plan(addresses))
		if err != nil {
			t.Fatal(err)
		}
		w.agent.wants(t, "gateway", "tcp", at(server4, port), mark(way.Mark))
		if err := w.space.Detach(way); err != nil {
			t.Fatal(err)
		}
		return way
	}
	before := attach(marks.Tunnel(0), 0)
	if other := attach(before.Mark, 0); other.Index == before.Index {
		t.Errorf("two tunnels have had the index %d", before.Index)
	}
	if again := attach(before.Mark, before.Index); again.Index != before.Index {
		t.Errorf("the index was %d and is %d", before.Index, again.Index)
	}
	c.Name, c.Index = "own0", before.Index
	own, err := wg.NewUser(w.inside, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	if taken := attach(before.Mark, before.Index); taken.Index == before.Index {
		t.Errorf("two devices have the index %d", before.Index)
	}
}

// BenchmarkRootAttach is a tunnel to a running container, without the gateway's answer.
func BenchmarkRootAttach(b *testing.B) {
	w := newWorld(b, true)
	g := newGateway(b, "gateway", 1420)
	c, addresses := g.slot(b, 1420)
	var took []time.Duration
	for b.Loop() {
		begun := time.Now()
		way, err := w.space.Attach(c.Plan(addresses))
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begun))
		if err := w.space.Detach(way); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkRootThroughput moves bulk by the whole path (rules, marks, tables, pass) and by the same WireGuard library without any of
// it, in turns, and reports the ratio of the medians.
func BenchmarkRootThroughput(b *testing.B) {
	const size, mtu = 64 << 20, 1420
	w := newWorld(b, true)
	g, way := w.attach(b, "gateway", mtu)
	raw := &world{inside: network.Of(b)}
	c, addresses := g.slot(b, mtu)
	c.Name = "raw0"
	device, err := wg.NewUser(raw.inside, c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = device.Close() })
	network.In(b, raw.inside, func() error { return plug("raw0", addresses[0].String(), mtu) })
	alternate(b, w, way, raw, "gateway", size)
}

// plug gives the only device of a bare namespace its address and everybody as a neighbour.
func plug(device, address string, mtu int) error {
	if err := network.Up(device, address); err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, LinkIndex: link.Attrs().Index, Scope: unix.RT_SCOPE_LINK})
}

// alternate sends size bytes there and back by a way of ours and out of the bare namespace of raw, in turns, to who answers by a name.
func alternate(b *testing.B, w *world, way *Way, raw *world, name string, size int) {
	b.Helper()
	bare := raw.start(b, newCgroup(b, "bare").dir)
	measure := func(p *process, options ...string) float64 {
		begun := time.Now()
		p.wants(b, name, append([]string{"bulk", at(server4, port), fmt.Sprintf("n=%d", size)}, options...)...)
		return 2 * float64(size) / time.Since(begun).Seconds() / 1e6 // both ways
	}
	var ours, theirs []float64
	for b.Loop() {
		ours = append(ours, measure(w.agent, mark(way.Mark)))
		theirs = append(theirs, measure(bare))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(ours[len(ours)/2], "MB/s")
	b.ReportMetric(theirs[len(theirs)/2], "raw-MB/s")
	b.ReportMetric(ours[len(ours)/2]/theirs[len(theirs)/2], "ratio")
}
