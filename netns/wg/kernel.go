package wg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
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
	running
	closed atomic.Bool
}

// newKernel makes a device in the namespace from outside of it: its UDP socket stays in this process's.
func newKernel(ns *enter.Namespace, c Config) (_ link.Device, err error) {
	attrs := netlink.LinkAttrs{Name: c.Name, Index: c.Index, MTU: c.MTU, Namespace: netlink.NsFd(ns.FD())}
	err = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if attrs.Index != 0 && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST)) {
		attrs.Index = 0
		err = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	}
	if err != nil {
		return nil, unsupported(err)
	}
	k := &kernel{name: c.Name}
	k.c = c
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

// unsupported tells a kernel without WireGuard from other errors of making a device.
func unsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &UnsupportedError{err}
	}
	return fmt.Errorf("make: %w", err)
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

// Stats implements link.Device.
func (k *kernel) Stats() (link.Stats, error) {
	d, err := k.control.Device(k.name)
	if err != nil {
		return link.Stats{}, fmt.Errorf("ask WireGuard device %s: %w", k.name, err)
	}
	peer := k.peer()
	for _, p := range d.Peers {
		if Key(p.PublicKey) == peer {
			return statsOf(p), nil
		}
	}
	return link.Stats{}, fmt.Errorf("WireGuard device %s has lost its peer", k.name)
}

func statsOf(p wgtypes.Peer) link.Stats {
	return link.Stats{Handshake: p.LastHandshakeTime, Received: uint64(p.ReceiveBytes), Sent: uint64(p.TransmitBytes)}
}

// Move implements link.Device.
func (k *kernel) Move(to netip.AddrPort) error {
	return k.change(func(c Config) Config {
		c.Endpoint = to
		return c
	}, func(c Config, _ bool) error { return k.set(c, true) })
}

// Set implements Rekeyed.
func (k *kernel) Set(next Config) error {
	return k.change(func(Config) Config { return next }, k.set)
}

func (k *kernel) set(c Config, fresh bool) error {
	settings := c.settings()
	settings.ReplacePeers = fresh
	none, now := time.Duration(0), time.Second
	for _, keepalive := range []*time.Duration{&none, &now, &c.Keepalive} { // one that begins is sent at once
		settings.Peers[0].PersistentKeepaliveInterval = keepalive
		if err := k.control.ConfigureDevice(k.name, settings); err != nil {
			return fmt.Errorf("change the keys or the endpoint of WireGuard device %s: %w", k.name, err)
		}
		settings.ReplacePeers = false
	}
	return nil
}

// Close implements link.Device.
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

// Kind implements link.Device.
func (*kernel) Kind() string { return "kernel" }

// remove deletes a device in a namespace.
func remove(ns *enter.Namespace, name string) error {
	return ns.Do(func() error {
		found, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(found)
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
