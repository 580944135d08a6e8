package egress

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/uplink"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
)

// The ends of a node's uplink.
const (
	nodeAt = "10.77.0.1"
	farAt  = "10.77.0.2"
)

// node is one whose tunnels lead to a gateway by one device.
type node struct {
	*world
	ns      *enter.Namespace
	gateway *gateway
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{world: newWorld(t, true), ns: network.Of(t)}
	far := network.Of(t)
	err := network.Join(network.End{In: n.ns, Name: "up0", Addresses: []string{nodeAt + "/24"}}, network.End{In: far, Name: "far0", Addresses: []string{farAt + "/24"}})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{ns: network.Of(t), name: "gateway", private: newKey(t)}
	on, err := network.TUN(g.ns, "gw0", 1420, server4, server6)
	if err != nil {
		t.Fatal(err)
	}
	network.In(t, far, func() (err error) { // its socket is where it is made
		g.device, g.at, err = network.WireGuard(on, fmt.Sprintf("private_key=%x\n", g.private[:]))
		return err
	})
	t.Cleanup(g.device.Close)
	g.at = netip.AddrPortFrom(netip.MustParseAddr(farAt), g.at.Port())
	serve(t, g.ns, g.name)
	n.gateway = g
	return n
}

// way is a tunnel of a class, whose socket is the node's.
func (n *node) way(t testing.TB, class string) *Way {
	t.Helper()
	c, addresses := n.gateway.slot(t, 1420)
	c.DSCP = flow.DSCP(class)
	plan := c.Plan(addresses)
	make := plan.Make
	plan.Make = func(ns *enter.Namespace, name string, index int) (d link.Device, err error) {
		err = n.ns.Do(func() (err error) {
			d, err = make(ns, name, index)
			return err
		})
		return d, err
	}
	way, err := n.space.Attach(plan)
	if err != nil {
		t.Fatal(err)
	}
	return way
}

// plain has the uplink be as a full line is without order: one queue, of half a second. full tells whether half of it waits.
func (n *node) plain(t testing.TB, rate int64) (full func() bool, undo func()) {
	t.Helper()
	limit := uint32(rate / 2)
	line := &netlink.Tbf{Rate: uint64(rate), Buffer: netlink.Xmittime(uint64(rate), 10_000), Limit: limit}
	line.Handle, line.Parent = netlink.MakeHandle(1, 0), netlink.HANDLE_ROOT
	var up netlink.Link
	network.In(t, n.ns, func() (err error) {
		if up, err = netlink.LinkByName("up0"); err != nil {
			return err
		}
		line.LinkIndex = up.Attrs().Index
		return netlink.QdiscAdd(line)
	})
	full = func() (is bool) {
		network.In(t, n.ns, func() error {
			all, err := netlink.QdiscList(up)
			for _, q := range all {
				is = is || q.Attrs().Statistics != nil && q.Attrs().Statistics.Queue.Backlog > limit/2
			}
			return err
		})
		return is
	}
	return full, func() { network.In(t, n.ns, func() error { return netlink.QdiscDel(line) }) }
}

// ask is the median time until a byte comes back by a way.
func (n *node) ask(t testing.TB, way *Way, times int) (time.Duration, error) {
	t.Helper()
	text, err := n.agent.Ask(t, "echo", at(server4, port), mark(way.Mark), fmt.Sprint("n=", times), "flows") // with all its time to connect
	if err != nil {
		return 0, err
	}
	median, err := strconv.Atoi(text)
	return time.Duration(median) * time.Microsecond, err
}

// beside floods the uplink by ways, with so many connections each, and calls do once it is full.
func (n *node) beside(t testing.TB, floods map[*Way]int, full func() bool, do func()) {
	t.Helper()
	for way, connections := range floods {
		other := n.another(t)
		defer other.End()
		// With all their time to connect: a class that has little may have its first packets wait for a second.
		if _, err := other.Ask(t, "flood", at(server4, port), mark(way.Mark), fmt.Sprint("n=", connections), "for=5m", "begin", "flows"); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the uplink is full", full)
	do()
}

// until waits for something to come true.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to it that " + what)
		}
	}
}

// only is how it stands with the only uplink.
func only(t testing.TB, k *uplink.Keeper) api.Uplink {
	t.Helper()
	all, err := k.Uplinks(t.Context())
	if err != nil || len(all.Uplinks) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	return all.Uplinks[0]
}

// classes is what each class of the only uplink has sent.
func classes(t testing.TB, k *uplink.Keeper) map[string]api.UplinkClass {
	t.Helper()
	all := make(map[string]api.UplinkClass)
	for _, c := range only(t, k).Classes {
		all[c.Class] = c
	}
	return all
}

// waiting tells whether packets of these classes wait.
func waiting(t testing.TB, k *uplink.Keeper, which ...string) func() bool {
	return func() bool {
		now := classes(t, k)
		return !slices.ContainsFunc(which, func(class string) bool { return now[class].Waiting == 0 })
	}
}

// parts is what these classes send of so many bytes, in percent. What counts are moments in which packets of all of them wait: at others, on
// a machine that has no processor for who sends, the uplink is not full.
func parts(t testing.TB, k *uplink.Keeper, bytes uint64, which ...string) map[string]float64 {
	t.Helper()
	sent, all := make(map[string]uint64), uint64(0)
	full := waiting(t, k, which...)
	until(t, fmt.Sprintf("the full uplink carries %d bytes", bytes), func() bool {
		if !full() {
			return false
		}
		before := classes(t, k)
		time.Sleep(20 * time.Millisecond)
		now := classes(t, k)
		if !full() {
			return false
		}
		for class, c := range now {
			n := c.Sent - before[class].Sent
			sent[class] += n
			all += n
		}
		return all >= bytes
	})
	part := make(map[string]float64)
	for class, n := range sent {
		part[class] = 100 * float64(n) / float64(all)
	}
	return part
}

// TestRootUplink: with a table of the uplink, an urgent byte goes past a flood of bulk that fills the uplink, and without it waits behind it;
// and of a full uplink the more urgent class has more, by tunnels as a container has them.
func TestRootUplink(t *testing.T) {
	n := newNode(t)
	rate, crowd, few, many := int64(5_000_000/8), 10, 4, 60 // a machine without a processor to spare fills that, too
	if os.Getenv("FOREFEND_EGRESS_WAIT") != "" {
		rate, crowd, few, many = 1_000_000/8, 2, 1, 7 // and an emulated one this
	}
	ways := make(map[string]*Way)
	for _, class := range flow.QoSClasses {
		ways[class] = n.way(t, class)
	}
	fast, bulk := ways[flow.QoSInteractive], map[*Way]int{ways[flow.QoSBulk]: crowd}
	idle, err := n.ask(t, fast, many)
	if err != nil {
		t.Fatal(err)
	}

	var without, with time.Duration
	full, undo := n.plain(t, rate)
	n.beside(t, bulk, full, func() {
		if without, err = n.ask(t, fast, 5); err != nil {
			t.Fatal(err)
		}
	})
	undo()

	k := uplink.New(n.ns, filepath.Join(t.TempDir(), "uplinks.json"))
	if err := k.Set(t.Context(), []uplink.Uplink{{Device: "up0", Rate: rate}}); err != nil {
		t.Fatal(err)
	}
	if s := only(t, k); s.Status != api.UplinkKept {
		t.Fatalf("%+v", s)
	}
	n.beside(t, bulk, waiting(t, k, flow.QoSBulk), func() {
		// A machine that has other things to do only ever adds to it: one of three times shows it.
		for range 3 {
			once, err := n.ask(t, fast, many)
			if err != nil {
				t.Fatal(err)
			}
			if with == 0 || once < with {
				with = once
			}
			if 2*with <= without {
				break
			}
		}
	})
	t.Logf("median until a byte comes back, a flood of bulk beside it: idle %s, without a table %s, with it %s", idle, without, with)
	if 2*with > without {
		t.Errorf("beside a flood of bulk an interactive byte takes %s with a table of the uplink, %s without", with, without)
	}

	// Without an order they have a quarter or so.
	n.beside(t, map[*Way]int{ways[flow.QoSBulk]: crowd, fast: few}, waiting(t, k, flow.QoSBulk, flow.QoSInteractive), func() {
		part := parts(t, k, 2*uint64(rate), flow.QoSBulk, flow.QoSInteractive)
		t.Logf("%d interactive connections beside %d of bulk: %.1f and %.1f %% of the uplink", few, crowd, part[flow.QoSInteractive], part[flow.QoSBulk])
		if part[flow.QoSInteractive] < 1.5*part[flow.QoSBulk] || part[flow.QoSBulk] < 1 {
			t.Errorf("%d interactive connections have %.1f %% beside %d of bulk, which have %.1f", few, part[flow.QoSInteractive], crowd, part[flow.QoSBulk])
		}
	})

	floods := make(map[*Way]int)
	for _, way := range ways {
		floods[way] = few
	}
	n.beside(t, floods, waiting(t, k, flow.QoSClasses...), func() {
		part := parts(t, k, 2*uint64(rate), flow.QoSClasses...)
		r, i, s, b := part[flow.QoSRealtime], part[flow.QoSInteractive], part[flow.QoSStandard], part[flow.QoSBulk]
		t.Logf("of a full uplink realtime has %.1f %%, interactive %.1f, standard %.1f, bulk %.1f", r, i, s, b)
		if r < 1.5*i || i+s < 2*b || b < 1 {
			t.Error("that is not the order of the classes")
		}
	})
}
