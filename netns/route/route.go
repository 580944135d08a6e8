// Package route leads marked packets to their tunnels, in a container's network namespace, and everything else that must not go its
// own way nowhere (docs/decisions/0069). Routes and rules are closed by themselves: with package nft's rules gone, a connection of
// the container ends at the container.
//
//	local                                    as ever
//	mark Direct, Inbound    → main           the container's own routes
//	mark of tunnel n        → table n        its device; under that a blackhole, for when the device is down or gone
//	any other mark          → blackhole
//	UDP to port 53          → trap           queries for names
//	UDP to port 443         → prohibited     where requests must be readable
//	UDP, ICMP               → main
//	everything else         → trap           this namespace itself, where it is redirected to the interceptor, or refused
//
// All functions are for a thread inside the namespace (enter.Namespace.Do), and may be repeated.
package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/marks"
)

// State is the base that does not depend on tunnels.
type State struct {
	Sources []netip.Addr // what connections are made from: the first of each family
	Web     bool         // UDP to port 443 is prohibited
}

// families that a namespace may have. One that is switched off has no route that could leak.
var families = []int{unix.AF_INET, unix.AF_INET6}

// Set puts the base in force. In between, and after an error, more is closed rather than less: rules that open come last.
func Set(s State) error {
	if err := settings(); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open routing: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByIndex(loopback)
	if err == nil {
		err = h.LinkSetUp(lo) // as runc would: a route by it has to
	}
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	for _, family := range families {
		if err := base(h, family, s); err != nil {
			if family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
				continue // without IPv6 nothing leaves by it
			}
			return fmt.Errorf("routing for egress: %w", err)
		}
	}
	return nil
}

// settings have what comes in routed by its mark, so that it is not taken for forged, and what answers it inherit that mark.
func settings() error {
	for path, needed := range map[string]bool{
		"ipv4/conf/all/src_valid_mark": true, "ipv4/tcp_fwmark_accept": true, "ipv4/fwmark_reflect": true, "ipv6/fwmark_reflect": false,
	} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil && (needed || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("setting of the container's network: %w", err)
		}
	}
	return nil
}

// base makes the rules of one family, the closing ones first.
func base(h *netlink.Handle, family int, s State) error {
	trap := &netlink.Route{
		Dst: everywhere(family), Table: marks.Trap, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, LinkIndex: loopback, Src: source(family, s.Sources),
	}
	if err := h.RouteReplace(trap); err != nil {
		return fmt.Errorf("trap: %w", err)
	}
	icmp := unix.IPPROTO_ICMP
	if family == unix.AF_INET6 {
		icmp = unix.IPPROTO_ICMPV6
	}
	rules := []*netlink.Rule{
		{Priority: marks.RuleNone, Type: unix.RTN_UNREACHABLE},
		{Priority: marks.RuleTrap, Table: marks.Trap},
		{Priority: marks.RuleMarked, Type: unix.RTN_BLACKHOLE, Mark: 0, Mask: all(), Invert: true},
	}
	if s.Web {
		for _, port := range marks.QUIC {
			rules = append(rules, &netlink.Rule{Priority: marks.RuleWeb, Type: unix.RTN_PROHIBIT, IPProto: unix.IPPROTO_UDP, Dport: netlink.NewRulePortRange(port, port)})
		}
	}
	rules = append(rules,
		&netlink.Rule{Priority: marks.RuleLookup, Table: marks.Trap, IPProto: unix.IPPROTO_UDP, Dport: netlink.NewRulePortRange(53, 53)},
		&netlink.Rule{Priority: marks.RuleICMP, Table: unix.RT_TABLE_MAIN, IPProto: icmp},
		&netlink.Rule{Priority: marks.RuleUDP, Table: unix.RT_TABLE_MAIN, IPProto: unix.IPPROTO_UDP},
		&netlink.Rule{Priority: marks.RuleInbound, Table: unix.RT_TABLE_MAIN, Mark: marks.Inbound, Mask: all()},
		&netlink.Rule{Priority: marks.RuleDirect, Table: unix.RT_TABLE_MAIN, Mark: marks.Direct, Mask: all()})
	for _, r := range rules {
		if err := add(h, family, r); err != nil {
			return err
		}
	}
	return nil
}

// Tunnel is where a mark leads.
type Tunnel struct {
	N         int // its number in this namespace: mark, table and device follow from it
	Addresses []netip.Prefix
	MTU       int
	Rate      int64 // bytes a second that may go into it; 0: no limit
}

// blackholeMetric is worse than any that a route by a device has.
const blackholeMetric = 1 << 20

// Attach leads the mark of a tunnel to its device, which is there, and down. It is up in the end.
func Attach(t Tunnel) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open routing: %w", err)
	}
	defer h.Close()
	device := marks.Device(t.N)
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	reach := map[int]netip.Addr{}
	for _, a := range t.Addresses {
		if err := h.AddrReplace(link, &netlink.Addr{IPNet: network(a), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}); err != nil {
			return fmt.Errorf("address %s of device %s: %w", a, device, err)
		}
		if family := familyOf(a.Addr()); !reach[family].IsValid() {
			reach[family] = a.Addr()
		}
	}
	if err := h.LinkSetMTU(link, t.MTU); err != nil {
		return fmt.Errorf("MTU %d of device %s: %w", t.MTU, device, err)
	}
	if err := shape(h, link, t.Rate, t.MTU); err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring device %s up: %w", device, err)
	}
	for _, family := range families {
		if err := lead(h, family, t, link, reach[family]); err != nil {
			if family == unix.AF_INET6 && !reach[family].IsValid() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
				continue
			}
			return fmt.Errorf("route by device %s: %w", device, err)
		}
	}
	return nil
}

// lead makes one family's table of a tunnel, and then the rule to it. A family without an address has the blackhole alone.
func lead(h *netlink.Handle, family int, t Tunnel, link netlink.Link, from netip.Addr) error {
	table := marks.Table(t.N)
	hole := &netlink.Route{Dst: everywhere(family), Table: table, Type: unix.RTN_BLACKHOLE, Priority: blackholeMetric}
	if err := h.RouteReplace(hole); err != nil {
		return fmt.Errorf("blackhole: %w", err)
	}
	if from.IsValid() {
		// TCP's segments fit the tunnel, whatever the other end believes of its own way: no ICMP needs to come through for that.
		way := &netlink.Route{
			Dst: everywhere(family), Table: table, LinkIndex: link.Attrs().Index, Src: from.AsSlice(), Scope: unix.RT_SCOPE_LINK,
			AdvMSS: t.MTU - headers(family),
		}
		if err := h.RouteReplace(way); err != nil {
			return err
		}
	}
	return add(h, family, &netlink.Rule{Priority: marks.RuleTunnel + t.N, Table: table, Mark: marks.Tunnel(t.N), Mask: all()})
}

// headers of IP and TCP, without options, in bytes.
func headers(family int) int {
	if family == unix.AF_INET6 {
		return 40 + 20
	}
	return 20 + 20
}

// Detach takes away where the mark of a tunnel leads: it leads nowhere then. The device may be gone.
func Detach(n int) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open routing: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range families {
		rule := shaped(family, &netlink.Rule{Priority: marks.RuleTunnel + n, Table: marks.Table(n), Mark: marks.Tunnel(n), Mask: all()})
		if err := h.RuleDel(rule); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("rule of tunnel %d: %w", n, err))
		}
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: marks.Table(n)}, netlink.RT_FILTER_TABLE)
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("routes of tunnel %d: %w", n, err))
		}
		for i := range routes {
			if err := h.RouteDel(&routes[i]); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("route of tunnel %d: %w", n, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Clear takes everything of ours away: rules by their priorities, and the tables they led to.
func Clear() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open routing: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range families {
		rules, err := h.RuleList(family)
		if err != nil && !gone(err) {
			errs = append(errs, err)
		}
		for i := range rules {
			if p := rules[i].Priority; p < marks.RuleDirect || p > marks.RuleNone {
				continue
			}
			if err := h.RuleDel(shaped(family, &rules[i])); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("rule %d: %w", rules[i].Priority, err))
			}
		}
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !gone(err) {
			errs = append(errs, err)
		}
		for i := range routes {
			if t := routes[i].Table; t < marks.Trap || t > marks.Table(marks.Tunnels) {
				continue
			}
			if err := h.RouteDel(&routes[i]); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("route of table %d: %w", routes[i].Table, err))
			}
		}
	}
	return errors.Join(errs...)
}

// ClearDevices removes the devices of tunnels: of the kernel's, and of those that outlive their process.
func ClearDevices() error {
	links, err := link.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		if name := l.Attrs().Name; marks.IsDevice(name) {
			if err := netlink.LinkDel(l); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Sources lists the addresses that connections of this namespace may be made from, and its devices but loopback.
func Sources() (own []netip.Addr, devices []string, err error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback != 0 {
			continue
		}
		devices = append(devices, l.Name)
		addrs, err := l.Addrs()
		if err != nil {
			return nil, nil, fmt.Errorf("addresses of %s: %w", l.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own = append(own, p.Addr().WithZone(""))
			}
		}
	}
	return own, devices, nil
}

const loopback = 1 // the index of lo, in every namespace

func all() *uint32 {
	mask := ^uint32(0)
	return &mask
}

// add adds a rule that is not there yet.
func add(h *netlink.Handle, family int, r *netlink.Rule) error {
	if err := h.RuleAdd(shaped(family, r)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rule %d: %w", r.Priority, err)
	}
	return nil
}

// shaped fills in what netlink's library takes -1 for.
func shaped(family int, r *netlink.Rule) *netlink.Rule {
	full := netlink.NewRule()
	full.Family, full.Priority, full.Table, full.Type = family, r.Priority, r.Table, r.Type
	full.Mark, full.Mask, full.Invert, full.IPProto, full.Dport = r.Mark, r.Mask, r.Invert, r.IPProto, r.Dport
	if full.Table == 0 {
		full.Table = -1
	}
	return full
}

func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENODEV)
}

func everywhere(family int) *net.IPNet {
	if family == unix.AF_INET6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// source is the first global address of a family, nil without one.
func source(family int, all []netip.Addr) net.IP {
	for _, a := range all {
		if familyOf(a) == family && !a.IsLinkLocalUnicast() {
			return a.AsSlice()
		}
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
