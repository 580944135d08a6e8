package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/whole"
)

// plane is what is done about leases, by the kernel or by a test.
type plane interface {
	put(wg.Peer, []nft.Rated) error
	replace(wg.Peer, wg.Key) error // by a peer that takes the addresses of another
	remove([]wg.Key, []nft.Rated) error
	peers() (map[wg.Key]wg.PeerStats, error)
	forget(map[netip.Addr]bool) error         // connections that were opened from addresses
	mend([]nft.Rated) (bool, error)           // rules that are gone, of all peers with a rate; whether they were
	dropped() (map[nft.Counter]uint64, error) // packets
	kind() string
	close() error
}

// kernelPlane is a gateway's device, rules and settings in one network namespace. What a killed process left is taken over by the
// next one.
type kernelPlane struct {
	ns    *enter.Namespace // of its own, to be closed
	hub   wg.Hub
	state string
	sizes sizes
	rules nft.Gateway // but for Rated
}

type sizes struct {
	mtu       int
	addresses *addresses
}

// openPlane puts everything in force, the rules before the settings that let packets pass.
func openPlane(ns *enter.Namespace, c Config, a *addresses, peers []wg.Peer, rated []nft.Rated) (_ *kernelPlane, err error) {
	p := &kernelPlane{state: c.State, sizes: sizes{c.MTU, a}}
	if p.ns, err = ns.Again(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	was, err := p.settings(c.Uplink)
	if err != nil {
		return nil, err
	}
	p.rules = nft.Gateway{Device: deviceName, Uplink: c.Uplink, Pool4: a.four, Pool6: a.six,
		Others4: was.others(forward4), Others6: was.others(forward6)}
	for _, class := range c.Classes {
		p.rules.Classes = append(p.rules.Classes, nft.RateClass{Name: class.Name, Rate: class.Rate})
	}
	if err := p.rule(rated); err != nil {
		return nil, err
	}
	if p.hub, err = wg.NewHub(p.ns, wg.HubConfig{Name: deviceName, MTU: c.MTU, Private: c.Private, Port: c.Port}); err != nil {
		return nil, err
	}
	if err := p.ns.Do(p.address); err != nil {
		return nil, err
	}
	if len(peers) > 0 { // spoken to by a device that is up
		if err := p.hub.Put(peers...); err != nil {
			return nil, err
		}
	}
	return p, p.ns.Do(func() error { return p.forward(c.Uplink) })
}

// rule puts the rules in force, with the rates of these peers.
func (p *kernelPlane) rule(rated []nft.Rated) error {
	rules := p.rules
	rules.Rated = rated
	return p.ns.Do(func() error { return nft.SetGateway(rules) })
}

// mend puts rules in force again of which some are gone: who flushes netfilter flushes ours, too.
func (p *kernelPlane) mend(rated []nft.Rated) (gone bool, err error) {
	err = p.ns.Do(func() error {
		there, err := nft.HasGateway(p.rules)
		gone = !there
		return err
	})
	if gone && err == nil {
		err = p.rule(rated)
	}
	return gone, err
}

func (p *kernelPlane) peers() (map[wg.Key]wg.PeerStats, error) { return p.hub.Peers() }
func (p *kernelPlane) kind() string                            { return p.hub.Kind() }

// address gives the device the gateway's own address of each pool, and with it the route to the peers.
func (p *kernelPlane) address() error {
	made, err := netlink.LinkByName(deviceName)
	if err != nil {
		return fmt.Errorf("device %s: %w", deviceName, err)
	}
	if err := netlink.LinkSetMTU(made, p.sizes.mtu); err != nil {
		return fmt.Errorf("MTU of device %s: %w", deviceName, err)
	}
	for _, own := range p.sizes.addresses.of(ownNumber) {
		pool := p.sizes.addresses.four
		if own.Addr().Is6() {
			pool = p.sizes.addresses.six
		}
		// The bits of an IPv6 pool that no peer has are led nowhere.
		a := &netlink.Addr{IPNet: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(pool.Bits(), own.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(made, a); err != nil {
			return fmt.Errorf("address %s of device %s: %w", own, deviceName, err)
		}
	}
	if err := netlink.LinkSetUp(made); err != nil {
		return fmt.Errorf("device %s: %w", deviceName, err)
	}
	return nil
}

// close undoes openPlane: packets stop passing first.
func (p *kernelPlane) close() error {
	var errs []error
	errs = append(errs, p.ns.Do(p.restore))
	if p.hub != nil {
		errs = append(errs, p.hub.Close())
	}
	errs = append(errs, p.ns.Do(nft.ClearGateway), p.ns.Close())
	return errors.Join(errs...)
}

// before is how settings were, by their paths below /proc/sys/net.
type before map[string]string

// others tells whether a family's packets that are not of peers pass as far as the machine lets them: it forwarded before there was a gateway, or
// the gateway leaves that setting alone.
func (b before) others(forward string) bool {
	value, touched := b[forward]
	return !touched || value == "1"
}

// The settings that let packets of each family pass.
const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

const settingsName = "settings"

// needed are the settings that let packets pass, and count them. Forwarding of one family is asked for where there is a pool of it.
func (p *kernelPlane) needed(uplink string) []string {
	all := []string{"netfilter/nf_conntrack_acct", "netfilter/nf_conntrack_timestamp"}
	if p.sizes.addresses.four.IsValid() {
		all = append(all, forward4)
	}
	if p.sizes.addresses.six.IsValid() {
		all = append(all, forward6, "ipv6/conf/"+uplink+acceptRA) // else a router does not hear of its own routers
	}
	return all
}

const acceptRA = "/accept_ra"

// wanted is what a gateway has a setting be.
func wanted(name string) string {
	if strings.HasSuffix(name, acceptRA) {
		return "2" // also of a machine that forwards
	}
	return "1"
}

// settings are written down before they change.
type settings struct {
	Mark string `json:"of"` // the boot and the namespace that they are of
	Was  before `json:"was"`
}

// mark is what tells this boot's namespace from any other.
func (p *kernelPlane) mark() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("settings of the network: %w", err)
	}
	return fmt.Sprintf("%s %d", bytes.TrimSpace(boot), p.ns.ID()), nil
}

// settings reads how the machine was before there was a gateway: from what one that was killed wrote down, where it is of this
// boot and namespace, and what that one left alone from the kernel.
func (p *kernelPlane) settings(uplink string) (was before, err error) {
	path := filepath.Join(p.state, settingsName)
	mark, err := p.mark()
	if err != nil {
		return nil, err
	}
	var saved settings
	if body, err := os.ReadFile(path); err != nil || json.Unmarshal(body, &saved) != nil || saved.Mark != mark || saved.Was == nil {
		saved = settings{Mark: mark, Was: make(before)}
	}
	err = p.ns.Do(func() error {
		if _, err := net.InterfaceByName(uplink); err != nil {
			return fmt.Errorf("uplink %s: %w", uplink, err)
		}
		for _, name := range p.needed(uplink) {
			if _, known := saved.Was[name]; known {
				continue
			}
			value, err := readSetting(name)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			saved.Was[name] = value
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(saved)
	if err == nil {
		err = whole.Replace(path, body) // they are of this boot
	}
	if err != nil {
		return nil, fmt.Errorf("write settings of the network down: %w", err)
	}
	return saved.Was, nil
}

// readSetting reads one of the thread's namespace.
func readSetting(name string) (string, error) {
	value, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		return "", fmt.Errorf("setting of the network: %w", err)
	}
	return string(bytes.TrimSpace(value)), nil
}

// forward lets packets pass. It is called inside.
func (p *kernelPlane) forward(uplink string) error {
	for _, name := range p.needed(uplink) {
		err := os.WriteFile("/proc/sys/net/"+name, []byte(wanted(name)), 0)
		if errors.Is(err, os.ErrNotExist) && name != forward4 && name != forward6 {
			continue // such as the counting of a kernel that cannot
		}
		if err != nil {
			return fmt.Errorf("setting of the network: %w", err)
		}
	}
	return nil
}

// restore has settings as they were that a gateway has changed, and nobody else since. It is called inside.
func (p *kernelPlane) restore() error {
	path := filepath.Join(p.state, settingsName)
	body, err := os.ReadFile(path)
	if err != nil {
		return nil // nothing was changed
	}
	var saved settings
	if err := json.Unmarshal(body, &saved); err != nil {
		return fmt.Errorf("settings of the network in %s: %w", path, err)
	}
	if mark, err := p.mark(); err != nil || saved.Mark != mark {
		return err // they are of another boot, and this gateway has changed none
	}
	var errs []error
	for name, value := range saved.Was {
		now, err := readSetting(name)
		if err == nil && value != wanted(name) && now == wanted(name) {
			err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("setting of the network: %w", err))
		}
	}
	return errors.Join(append(errs, os.Remove(path))...)
}

// forget ends what the kernel knows of connections of these addresses, so that the next who has one is not sent what was another's.
func (p *kernelPlane) forget(gone map[netip.Addr]bool) error {
	filter := goneFilter(gone)
	return p.ns.Do(func() error {
		var errs []error
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter); err != nil {
				errs = append(errs, fmt.Errorf("forget connections: %w", err))
			}
		}
		return errors.Join(errs...)
	})
}

// goneFilter matches connections that peers of these addresses opened.
type goneFilter map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (g goneFilter) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	a, ok := netip.AddrFromSlice(f.Forward.SrcIP)
	return ok && g[a.Unmap()]
}

// put adds a peer: its rate first.
func (p *kernelPlane) put(peer wg.Peer, rated []nft.Rated) error {
	if err := p.rate(nft.PutRated, rated); err != nil {
		return err
	}
	if err := p.hub.Put(peer); err != nil {
		return errors.Join(err, p.rate(nft.RemoveRated, rated))
	}
	return nil
}

// replace adds a peer that takes its addresses from another.
func (p *kernelPlane) replace(peer wg.Peer, old wg.Key) error {
	if err := p.hub.Put(peer); err != nil {
		return err
	}
	return p.hub.Remove(old)
}

// remove takes peers away: their rates last.
func (p *kernelPlane) remove(keys []wg.Key, rated []nft.Rated) error {
	if err := p.hub.Remove(keys...); err != nil {
		return err
	}
	if err := p.rate(nft.RemoveRated, rated); !errors.Is(err, unix.ENOENT) { // with the rules that are gone
		return err
	}
	return nil
}

func (p *kernelPlane) rate(change func(...nft.Rated) error, rated []nft.Rated) error {
	if len(rated) == 0 {
		return nil
	}
	return p.ns.Do(func() error { return change(rated...) })
}
