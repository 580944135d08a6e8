package uplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

const (
	near4, near6 = "10.77.0.1", "fd77::1"
	far4, far6   = "10.77.0.2", "fd77::2"
	port         = 7777
)

// world is a node with two devices, and what is at the other end of the first.
type world struct {
	node, far *enter.Namespace
	file      string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	root.Test(t)
	w := &world{node: network.Of(t), far: network.Of(t), file: filepath.Join(t.TempDir(), "uplinks.json")}
	for i, name := range []string{"up0", "up1"} {
		err := network.Join(network.End{In: w.node, Name: name, Addresses: []string{fmt.Sprintf("10.%d.0.1/24", 77+i), fmt.Sprintf("fd%d::1/64", 77+i)}},
			network.End{In: w.far, Name: "far" + name, Addresses: []string{fmt.Sprintf("10.%d.0.2/24", 77+i), fmt.Sprintf("fd%d::2/64", 77+i)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// keep is a keeper with these uplinks.
func (w *world) keep(t testing.TB, uplinks ...Uplink) *Keeper {
	t.Helper()
	k := New(w.node, w.file)
	w.set(t, k, uplinks...)
	return k
}

func (w *world) set(t testing.TB, k *Keeper, uplinks ...Uplink) {
	t.Helper()
	if err := k.Set(t.Context(), uplinks); err != nil {
		t.Fatal(err)
	}
}

// roots are the root queueing disciplines of the devices, in words.
func (w *world) roots(t testing.TB) map[string]string {
	t.Helper()
	found := make(map[string]string)
	network.In(t, w.node, func() error {
		for _, name := range []string{"up0", "up1"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				continue // it is gone
			}
			all, err := netlink.QdiscList(link)
			if err != nil {
				return err
			}
			for _, q := range all {
				if q.Attrs().Parent == netlink.HANDLE_ROOT {
					found[name] = fmt.Sprintf("%s %x:", q.Type(), q.Attrs().Handle>>16)
				}
			}
		}
		return nil
	})
	return found
}

func (w *world) wants(t testing.TB, when, up0, up1 string) {
	t.Helper()
	if got, want := w.roots(t), map[string]string{"up0": up0, "up1": up1}; !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// device calls f with up0 as a keeper has it.
func (w *world) device(t testing.TB, f func(*device) error) {
	t.Helper()
	if err := New(w.node, w.file).on("up0", f); err != nil {
		t.Fatal(err)
	}
}

// inForce is what a device has, in the words of the plan that it is of.
func (w *world) inForce(t testing.TB, rate int64) {
	t.Helper()
	p := planOf(rate)
	w.device(t, func(d *device) error {
		classes, err := d.classes()
		if err != nil || len(classes) != len(p.classes) {
			return fmt.Errorf("%d classes, %v", len(classes), err)
		}
		for _, c := range p.classes {
			if !slices.ContainsFunc(classes, c.is) {
				return fmt.Errorf("class %s is not as planned: %+v", netlink.HandleStr(c.handle), classes)
			}
			if c.handle != top && !slices.ContainsFunc(d.all, func(q netlink.Qdisc) bool {
				return q.Attrs().Parent == c.handle && q.Attrs().Handle == queueOf(c.handle) && (q.Type() == fair || q.Type() == plain)
			}) {
				return fmt.Errorf("class %s has no queue of ours: %+v", netlink.HandleStr(c.handle), d.all)
			}
		}
		filters, err := netlink.FilterList(d.link, rootHandle)
		if err != nil || len(filters) != len(p.filters) {
			return fmt.Errorf("%d filters, %v", len(filters), err)
		}
		for _, f := range p.filters {
			if !slices.ContainsFunc(filters, f.is) {
				return fmt.Errorf("no filter %+v", f)
			}
		}
		return nil
	})
}

func stateOf(t testing.TB, k *Keeper, device string) api.Uplink {
	t.Helper()
	all, err := k.Uplinks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all.Uplinks {
		if u.Device == device {
			return u
		}
	}
	t.Fatalf("nothing is known of %s", device)
	return api.Uplink{}
}

const (
	none = "noqueue 0:"
	own  = "htb f0e:"
)

// TestRootKept: a device has what is planned, a changed rate changes it in place, and a device that is no uplink any more is as it was.
func TestRootKept(t *testing.T) {
	w := newWorld(t)
	w.wants(t, "at first", none, none)
	k := w.keep(t, Uplink{"up0", 2_500_000}, Uplink{"up1", 125_000_000})
	w.wants(t, "with a table", own, own)
	w.inForce(t, 2_500_000)
	if s := stateOf(t, k, "up0"); s.Status != api.UplinkKept || s.Why != "" || s.Queue == "" || len(s.Classes) != 4 {
		t.Errorf("%+v", s)
	}

	w.send(t, far4, 18, 10)
	w.set(t, k, Uplink{"up0", 5_000_000}, Uplink{"up1", 125_000_000})
	w.inForce(t, 5_000_000)
	if c := stateOf(t, k, "up0").Classes[1]; c.Packets != 10 {
		t.Errorf("with another rate counting begins anew, so queues did: %+v", c)
	}
	w.set(t, k, Uplink{"up0", 5_000_000})
	w.wants(t, "with one less", own, none)
	w.set(t, k)
	w.wants(t, "without", none, none)
	if _, err := os.Stat(w.file); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
}

// TestRootStop: who ends gives the devices back, also when it is told to in a hurry.
func TestRootStop(t *testing.T) {
	w := newWorld(t)
	k := w.keep(t, Uplink{"up0", 2_500_000})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k.Run(ctx)
	w.wants(t, "after Run", own, none)
	if err := k.Close(ctx); err != nil {
		t.Fatal(err)
	}
	w.wants(t, "after the end", none, none)
}

// TestRootTakenUp: what a killed process left goes on in the hands of the next, or ends where the configuration has it no more.
func TestRootTakenUp(t *testing.T) {
	w := newWorld(t)
	w.keep(t, Uplink{"up0", 2_500_000}, Uplink{"up1", 2_500_000}) // and forgotten
	w.send(t, far4, 46, 7)
	if left, err := Left(w.node); err != nil || !slices.Equal(left, []string{"up0", "up1"}) {
		t.Errorf("left: %v, %v", left, err)
	}
	k := w.keep(t, Uplink{"up0", 2_500_000})
	w.wants(t, "taken up", own, none)
	w.inForce(t, 2_500_000)
	if c := stateOf(t, k, "up0").Classes[0]; c.Packets != 7 {
		t.Errorf("it was made anew: %+v", c)
	}
	if left, err := Left(w.node); err != nil || !slices.Equal(left, []string{"up0"}) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRootRepaired: what is missing comes back, what is too much goes, and a root of another version is replaced.
func TestRootRepaired(t *testing.T) {
	w := newWorld(t)
	k := w.keep(t, Uplink{"up0", 2_500_000})
	for name, harm := range map[string]func(*device) error{
		"a filter less": func(d *device) error {
			return d.h.FilterDel(&netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: d.link.Attrs().Index, Parent: rootHandle, Priority: 1, Protocol: unix.ETH_P_IP}})
		},
		"a filter more": func(d *device) error {
			return d.h.FilterAdd(filter{unix.ETH_P_IP, 7, 0xff, 1, rootHandle + leaves}.of(d.link.Attrs().Index))
		},
		"another rate": func(d *device) error {
			return d.h.ClassReplace(planOf(1_000_000).classes[2].of(d.link.Attrs().Index))
		},
		"a class more": func(d *device) error {
			c := planOf(1_000_000).classes[2]
			c.handle = rootHandle + 0x77
			return d.h.ClassReplace(c.of(d.link.Attrs().Index))
		},
		"a queue less": func(d *device) error {
			for _, q := range d.all {
				if q.Attrs().Parent == rootHandle+leaves {
					return d.h.QdiscDel(q)
				}
			}
			return fmt.Errorf("there is none: %+v", d.all)
		},
		"another queue": func(d *device) error {
			return d.h.QdiscReplace(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: 0x99_0000, Parent: rootHandle + leaves},
				Rate: 1000, Limit: 100_000, Buffer: 100_000})
		},
		"nothing": (*device).remove,
		"another version": func(d *device) error {
			h := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: rootHandle, Parent: netlink.HANDLE_ROOT})
			h.Defcls = 0x99
			if err := d.remove(); err != nil {
				return err
			}
			return d.h.QdiscAdd(h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.device(t, harm)
			w.set(t, k, Uplink{"up0", 2_500_000})
			w.inForce(t, 2_500_000)
			w.wants(t, "repaired", own, none)
			if s := stateOf(t, k, "up0"); s.Status != api.UplinkKept {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRootForeign: what somebody else configured is left as it is, at every step, and told of.
func TestRootForeign(t *testing.T) {
	w := newWorld(t)
	theirs := func(h *netlink.Handle, name string) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.QdiscReplace(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate: 1_000_000, Limit: 100_000, Buffer: 100_000})
	}
	w.device(t, func(d *device) error { return theirs(d.h, "up0") })
	k := w.keep(t, Uplink{"up0", 2_500_000}, Uplink{"up1", 2_500_000})
	w.wants(t, "refused", "tbf 1:", own)
	if s := stateOf(t, k, "up0"); s.Status != api.UplinkForeign || !strings.Contains(s.Why, "tbf 1:") {
		t.Errorf("%+v", s)
	}
	w.device(t, func(d *device) error { return theirs(d.h, "up1") })
	w.set(t, k, Uplink{"up0", 2_500_000}, Uplink{"up1", 5_000_000})
	w.wants(t, "replaced by somebody", "tbf 1:", "tbf 1:")
	w.set(t, k)
	w.wants(t, "without a table", "tbf 1:", "tbf 1:")

	// An HTB of somebody else's, under another handle.
	w.device(t, func(d *device) error {
		if err := d.h.QdiscDel(d.root); err != nil {
			return err
		}
		return d.h.QdiscAdd(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}))
	})
	w.set(t, k, Uplink{"up0", 2_500_000})
	w.wants(t, "an HTB", "htb 1:", "tbf 1:")
}

// TestRootUnknown: a kernel that does not know a kind says so by the error that counts as a lack, and nothing is left on the device.
func TestRootUnknown(t *testing.T) {
	w := newWorld(t)
	w.device(t, func(d *device) error {
		at := netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: rootHandle, Parent: netlink.HANDLE_ROOT}
		if err := d.h.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: at, QdiscType: "nonsense"}); !errors.Is(err, unix.ENOENT) {
			t.Errorf("an unknown queueing discipline: %v", err)
		}
		if err := d.begin(); err != nil {
			return err
		}
		f := &netlink.GenericFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: at.LinkIndex, Parent: rootHandle, Priority: 1, Protocol: unix.ETH_P_IP}, FilterType: "nonsense"}
		if err := d.h.FilterAdd(f); !errors.Is(err, unix.ENOENT) {
			t.Errorf("an unknown filter: %v", err)
		}
		return d.remove()
	})
	w.wants(t, "after that", none, none)
}

// TestRootAbsent: a device may come later.
func TestRootAbsent(t *testing.T) {
	w := newWorld(t)
	k := w.keep(t, Uplink{"up9", 2_500_000})
	if s := stateOf(t, k, "up9"); s.Status != api.UplinkAbsent || s.Why == "" {
		t.Errorf("%+v", s)
	}
	network.In(t, w.node, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up9"}, PeerName: "far9"})
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	for end := time.Now().Add(time.Minute); stateOf(t, k, "up9").Status != api.UplinkKept; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", stateOf(t, k, "up9"))
		}
	}
}

// socket is one of the node's that sends with a code point.
func (w *world) socket(t testing.TB, to string, dscp int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	network.In(t, w.node, func() error {
		conn, err := (&net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			level, option := unix.IPPROTO_IP, unix.IP_TOS
			if netip.MustParseAddr(to).Is6() {
				level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
			}
			if e := raw.Control(func(fd uintptr) {
				// What waits in a queue counts: a socket stops before its queue drops something.
				if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 64<<10); err == nil {
					err = unix.SetsockoptInt(int(fd), level, option, dscp<<2)
				}
			}); e != nil {
				return e
			}
			return err
		}}).Dial("udp", net.JoinHostPort(to, fmt.Sprint(port)))
		if err != nil {
			return err
		}
		c = conn.(*net.UDPConn)
		return nil
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// send sends so many packets with a code point.
func (w *world) send(t testing.TB, to string, dscp, n int) {
	t.Helper()
	c := w.socket(t, to, dscp)
	for i := 0; i < n; {
		if _, err := c.Write(make([]byte, 100)); err == nil {
			i++ // else it was told that nobody listens, of an earlier one
		}
	}
}

// TestRootFilters: packets go to the class of their code point, whoever sends them; what has another one, or none, is standard.
func TestRootFilters(t *testing.T) {
	w := newWorld(t)
	k := w.keep(t, Uplink{"up0", 125_000_000})
	of := func() (n []uint64) {
		for _, c := range stateOf(t, k, "up0").Classes {
			n = append(n, c.Packets)
		}
		return n
	}
	for _, to := range []string{far4, far6} {
		for dscp, at := range map[int]int{int(flow.DSCP(flow.QoSRealtime)): 0, int(flow.DSCP(flow.QoSInteractive)): 1, int(flow.DSCP(flow.QoSBulk)): 3, 0: 2, 8: 2, 10: 2, 34: 2, 63: 2} {
			before := of()
			w.send(t, to, dscp, 20)
			after := of()
			for end := time.Now().Add(10 * time.Second); after[at]-before[at] < 20 && time.Now().Before(end); after = of() {
				time.Sleep(10 * time.Millisecond) // the first wait until a neighbour is found
			}
			for class := range after {
				// The standard class has what looks for neighbours, too.
				if n := after[class] - before[class]; class == at && n < 20 || class != at && class != 2 && n != 0 {
					t.Errorf("to %s with code point %d: class %s has %d packets more", to, dscp, order[class].class, n)
				}
			}
		}
	}
}

// flood keeps a class's queue full until stop, which returns once it is over.
func (w *world) flood(t testing.TB, dscp int) (stop func()) {
	t.Helper()
	c := w.socket(t, far4, dscp)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1400); ; {
			if _, err := c.Write(b); err != nil && !isRefused(err) {
				return
			}
		}
	}()
	return func() {
		_ = c.Close()
		<-done
	}
}

func isRefused(err error) bool { return strings.Contains(err.Error(), unix.ECONNREFUSED.Error()) }

// TestRootOrder: on a full uplink classes have what they are due, from the most urgent on, and the least urgent is not starved.
func TestRootOrder(t *testing.T) {
	w := newWorld(t)
	network.In(t, w.far, func() error { // whom nobody tells that nobody listens
		p, err := net.ListenPacket("udp", fmt.Sprintf("%s:%d", far4, port))
		if err == nil {
			t.Cleanup(func() { _ = p.Close() })
		}
		return err
	})
	const rate = 5_000_000 / 8 // a machine without a processor to spare fills that, too
	k := w.keep(t, Uplink{"up0", rate})
	for _, o := range order {
		defer w.flood(t, int(flow.DSCP(o.class)))()
	}
	classes := func() (n [4]uint64, all uint64, full bool) {
		full = true
		for i, c := range stateOf(t, k, "up0").Classes {
			n[i], all, full = c.Sent, all+c.Sent, full && c.Waiting > 0
		}
		return n, all, full
	}
	// What counts are moments in which packets of all classes wait: at others, on a machine that has no processor for who sends, the uplink is
	// not full.
	var sent [4]uint64
	var total uint64
	for end := time.Now().Add(2 * time.Minute); total < 2*rate; {
		if time.Now().After(end) {
			t.Fatalf("the full uplink carried %d bytes", total)
		}
		before, begun, full := classes()
		time.Sleep(20 * time.Millisecond)
		now, all, still := classes()
		if !full || !still {
			continue
		}
		total += all - begun
		for i := range sent {
			sent[i] += now[i] - before[i]
		}
	}
	w.set(t, k, Uplink{"up0", rate}) // a look at what is full changes nothing
	if s := stateOf(t, k, "up0"); s.Status != api.UplinkKept {
		t.Errorf("%+v", s)
	}
	w.inForce(t, rate)
	at := time.Now() // before the first look and until after the last: too long, never too short
	_, begun, _ := classes()
	time.Sleep(time.Second)
	_, all, _ := classes()
	took := time.Since(at).Seconds()
	var parts [4]float64
	for i := range parts {
		parts[i] = 100 * float64(sent[i]) / float64(total)
	}
	t.Logf("%.1f %% realtime, %.1f interactive, %.1f standard, %.1f bulk of %.2f Mbit/s", parts[0], parts[1], parts[2], parts[3], 8e-6*float64(all-begun)/took)
	for i := range parts[1:] {
		if parts[i] < 1.2*parts[i+1] {
			t.Errorf("%s has %.1f %% of a full uplink, %s %.1f %%", order[i].class, parts[i], order[i+1].class, parts[i+1])
		}
	}
	if parts[3] < 2 {
		t.Errorf("bulk has %.1f %%", parts[3])
	}
	if most := 1.1 * rate * took; float64(all-begun) > most+leastQueue {
		t.Errorf("%d bytes left in %.2f s, at %d a second", all-begun, took, int64(rate))
	}
}
