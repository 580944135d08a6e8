package wg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"forefend.dev/forefend/netns/enter"
)

// UnsupportedError says that the kernel has no WireGuard (Linux 5.6). It matches errors.ErrUnsupported.
type UnsupportedError struct{ Cause error }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this kernel has no WireGuard (Linux 5.6, CONFIG_WIREGUARD): %v", e.Cause)
}

// Unwrap implements errors.Is and errors.As.
func (e *UnsupportedError) Unwrap() []error { return []error{errors.ErrUnsupported, e.Cause} }

// kernel is a device of the kernel's.
type kernel struct {
	ns      *enter.Namespace // of its own, to be closed
	control *wgctrl.Client   // inside
	name    string
	peer    Key
	closed  atomic.Bool
}

// newKernel makes a device in the namespace from outside of it: its UDP socket stays in this process's.
func newKernel(ns *enter.Namespace, c Config) (_ Device, err error) {
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: c.Name, MTU: c.MTU, Namespace: netlink.NsFd(ns.FD())}}
	if err := netlink.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, &UnsupportedError{err}
		}
		return nil, fmt.Errorf("make: %w", err)
	}
	k := &kernel{name: c.Name, peer: c.Peer}
	if k.ns, err = ns.Again(); err != nil {
		return nil, errors.Join(err, remove(ns, c.Name))
	}
	err = ns.Do(func() (err error) {
		k.control, err = wgctrl.New()
		return err
	})
	if err == nil {
		err = k.control.ConfigureDevice(c.Name, c.settings())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("configure: %w", err), k.Close())
	}
	return k, nil
}

func (c Config) settings() wgtypes.Config {
	private, shared := wgtypes.Key(c.Private), wgtypes.Key(c.Shared)
	peer := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(c.Peer), Endpoint: net.UDPAddrFromAddrPort(c.Endpoint), PersistentKeepaliveInterval: &c.Keepalive,
		AllowedIPs: []net.IPNet{{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}
	if c.Shared != (Key{}) {
		peer.PresharedKey = &shared
	}
	return wgtypes.Config{PrivateKey: &private, ReplacePeers: true, Peers: []wgtypes.PeerConfig{peer}}
}

// Stats implements Device.
func (k *kernel) Stats() (Stats, error) {
	d, err := k.control.Device(k.name)
	if err != nil {
		return Stats{}, fmt.Errorf("ask WireGuard device %s: %w", k.name, err)
	}
	for _, p := range d.Peers {
		if Key(p.PublicKey) == k.peer {
			return Stats{p.LastHandshakeTime, uint64(p.ReceiveBytes), uint64(p.TransmitBytes)}, nil
		}
	}
	return Stats{}, fmt.Errorf("WireGuard device %s has lost its peer", k.name)
}

// Move implements Device.
func (k *kernel) Move(to netip.AddrPort) error {
	err := k.control.ConfigureDevice(k.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{{
		PublicKey: wgtypes.Key(k.peer), UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(to),
	}}})
	if err != nil {
		return fmt.Errorf("move WireGuard device %s to another endpoint: %w", k.name, err)
	}
	return nil
}

// Close implements Device.
func (k *kernel) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	errs := []error{remove(k.ns, k.name)}
	if k.control != nil {
		errs = append(errs, k.control.Close())
	}
	return errors.Join(append(errs, k.ns.Close())...)
}

// Kind implements Device.
func (*kernel) Kind() string { return "kernel" }

// remove deletes a device in a namespace.
func remove(ns *enter.Namespace, name string) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("remove device %s: %w", name, err)
		}
		return nil
	})
}
