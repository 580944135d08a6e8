package uplink

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
)

// Uplink is a device, and how much may leave by it.
type Uplink struct {
	Device string
	Rate   int64 // bytes a second
}

// Handles of ours on a device. The kernel itself gives numbers from 8000 up, and tc's examples are small: a root with this one is ours.
const (
	rootHandle = 0x0f0e_0000
	top        = rootHandle + 1 // the class of the whole uplink
	leaves     = 0x10           // the minor number of the most urgent class; its queue's major is as far above the root's
	majorBit   = 16
)

// order are the classes from the most urgent on, and what part of the rate each has for certain, in percent. Half of it is nobody's, and
// goes to the most urgent that wants it. The parts fall, too, so that two classes with nothing but their parts are in order.
var order = []share{{flow.QoSRealtime, 20}, {flow.QoSInteractive, 15}, {flow.QoSStandard, 10}, {flow.QoSBulk, 5}}

// share is a class and its certain part.
type share struct {
	class string
	part  int64
}

// What a class may send at once after a pause, and what its queue holds, as parts of a second.
const (
	ownBurst  = 50  // of its certain part's: a request goes at once, whatever is under way
	allBurst  = 100 // of the whole
	queuePart = 20
)

// packet is what a burst has room for some times at least, handed what the kernel hands over as one packet (GSO) at most.
const (
	packet     = 1600
	handed     = 65536
	leastBurst = 4 * packet
	leastQueue = 2 * handed
)

// quantum is how much a class sends in its turn beside others of its urgency. There are none; without it the kernel warns.
const quantum = 10 * packet

// plan is what a device has.
type plan struct {
	classes []class // the first is the whole, then the leaves
	queue   int64   // bytes that wait in a leaf, where the kernel has no fq_codel
	filters []filter
}

// class is one of HTB's. Rates are bytes a second, bursts bytes.
type class struct {
	handle, parent uint32
	urgency        int   // 0 before 1
	rate, ceil     int64 // for certain, and at most
	own, all       int64 // bursts of the two
}

// filter leads packets with a code point to a class.
type filter struct {
	protocol  uint16
	priority  uint16
	mask, val uint32 // of the first four bytes of the head
	class     uint32
}

// planOf is the plan for a rate in bytes a second.
func planOf(rate int64) plan {
	p := plan{queue: max(rate/queuePart, leastQueue)}
	add := func(handle, parent uint32, certain int64, urgency int) {
		p.classes = append(p.classes, class{handle, parent, urgency, certain, rate, max(certain/ownBurst, leastBurst), max(rate/allBurst, leastBurst)})
	}
	add(top, rootHandle, rate, 0)
	for i, o := range order {
		handle := uint32(rootHandle + leaves + i)
		add(handle, top, rate*o.part/100, i)
		if dscp := uint32(flow.DSCP(o.class)); dscp != 0 {
			p.filters = append(p.filters,
				filter{unix.ETH_P_IP, 1, 0x00fc_0000, dscp << 18, handle}, // the second byte, without congestion's two bits
				filter{unix.ETH_P_IPV6, 2, 0x0fc0_0000, dscp << 22, handle})
		}
	}
	return p
}

// others is the class of what no filter leads anywhere.
func others() uint32 {
	return uint32(leaves + slices.IndexFunc(order, func(o share) bool { return flow.DSCP(o.class) == 0 }))
}

// queueOf is the handle of a leaf's queue.
func queueOf(class uint32) uint32 { return rootHandle + (class-rootHandle)<<majorBit }

// of gives a filter the form in which the kernel takes it.
func (f filter) of(link int) *netlink.U32 {
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link, Parent: rootHandle, Priority: f.priority, Protocol: f.protocol},
		ClassId:     f.class, Sel: &netlink.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{{Mask: f.mask, Val: f.val}}},
	}
}

// is tells whether a filter of the kernel's is this one.
func (f filter) is(other netlink.Filter) bool {
	u, ok := other.(*netlink.U32)
	return ok && u.Sel != nil && len(u.Sel.Keys) == 1 && u.Sel.Keys[0] == (netlink.TcU32Key{Mask: f.mask, Val: f.val}) &&
		u.Protocol == f.protocol && u.Priority == f.priority && u.ClassId == f.class
}

// of gives a class the form in which the kernel takes it.
func (c class) of(link int) *netlink.HtbClass {
	return &netlink.HtbClass{
		ClassAttrs: netlink.ClassAttrs{LinkIndex: link, Handle: c.handle, Parent: c.parent},
		Rate:       uint64(c.rate), Ceil: uint64(c.ceil), Prio: uint32(c.urgency), Quantum: quantum,
		Buffer: netlink.Xmittime(uint64(c.rate), uint32(c.own)), Cbuffer: netlink.Xmittime(uint64(c.ceil), uint32(c.all)),
	}
}

// is tells whether a class of the kernel's is this one, as planned.
func (c class) is(other netlink.Class) bool {
	o, ok := other.(*netlink.HtbClass)
	want := c.of(0)
	return ok && o.Handle == c.handle && o.Rate == want.Rate && o.Ceil == want.Ceil && o.Prio == want.Prio && o.Quantum == quantum &&
		o.Buffer == want.Buffer && o.Cbuffer == want.Cbuffer
}

// String is the plan as tc would show it, roughly.
func (p plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "qdisc htb %x: default %#x\n", rootHandle>>majorBit, others())
	for _, c := range p.classes {
		fmt.Fprintf(&b, "class %s parent %s prio %d rate %d ceil %d burst %d cburst %d\n", netlink.HandleStr(c.handle), netlink.HandleStr(c.parent), c.urgency,
			8*c.rate, 8*c.ceil, c.own, c.all)
		if c.handle != top {
			fmt.Fprintf(&b, "queue %x: parent %s fq_codel, or limit %d\n", queueOf(c.handle)>>majorBit, netlink.HandleStr(c.handle), p.queue)
		}
	}
	filters := slices.Clone(p.filters)
	slices.SortStableFunc(filters, func(a, b filter) int { return cmp.Compare(a.priority, b.priority) })
	for _, f := range filters {
		fmt.Fprintf(&b, "filter protocol %#04x pref %d match %08x/%08x at 0 flowid %s\n", f.protocol, f.priority, f.val, f.mask, netlink.HandleStr(f.class))
	}
	return b.String()
}
