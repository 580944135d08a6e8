package wg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
)

// HubConfig is the device of a gateway, which has many peers. Its UDP sockets are in its namespace, too.
type HubConfig struct {
	Name    string
	MTU     int // of what goes through, in bytes
	Private Key
	Port    uint16 // of UDP
}

// Peer is a node's end of a tunnel, as its gateway knows it.
type Peer struct {
	Public  Key
	Shared  Key            // the pre-shared key; zero: none
	Allowed []netip.Prefix // what it may send from and is sent, taken from any other peer that had it
	At      netip.AddrPort // where it was last heard; zero: not known, or as it is
	Speak   bool           // speak to it at once, which needs At
}

// PeerStats is how a peer fares.
type PeerStats struct {
	link.Stats
	Endpoint netip.AddrPort // where it was last heard; zero: nowhere yet
}

// Hub is a gateway's device. Its methods may be called from any goroutine.
type Hub interface {
	// Put adds peers, or changes those that are there.
	Put(...Peer) error
	// Remove takes peers away. One that is not there is no error.
	Remove(...Key) error
	// Peers reads how each fares.
	Peers() (map[Key]PeerStats, error)
	// Close ends the device. Once more it does nothing.
	Close() error
	// Kind is "kernel" or "user".
	Kind() string
}

// NewHub makes a gateway's device in a namespace, after one of that name that an earlier process left. It is down and has no
// address yet, but answers handshakes.
func NewHub(ns *enter.Namespace, c HubConfig) (Hub, error) {
	err := remove(ns, c.Name)
	var h Hub
	if err == nil {
		h, err = newKernelHub(ns, c)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		h, err = newUserHub(ns, c)
	}
	if err != nil {
		return nil, fmt.Errorf("WireGuard device %s: %w", c.Name, err)
	}
	return h, nil
}

// kernelHub is a device of the kernel's.
type kernelHub struct{ *kernel }

// newKernelHub makes a device from inside, so that its UDP socket is there.
func newKernelHub(ns *enter.Namespace, c HubConfig) (Hub, error) {
	err := ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: c.Name, MTU: c.MTU}})
	})
	if err != nil {
		return nil, unsupported(err)
	}
	k := &kernel{name: c.Name}
	if k.ns, err = ns.Again(); err != nil {
		return nil, errors.Join(err, remove(ns, c.Name))
	}
	err = ns.Do(func() (err error) {
		k.control, err = wgctrl.New()
		return err
	})
	if err == nil {
		private, port := wgtypes.Key(c.Private), int(c.Port)
		err = k.control.ConfigureDevice(c.Name, wgtypes.Config{PrivateKey: &private, ListenPort: &port})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("configure: %w", err), k.Close())
	}
	return kernelHub{k}, nil
}

// Put implements Hub.
func (k kernelHub) Put(peers ...Peer) error {
	var c wgtypes.Config
	for _, p := range peers {
		shared := wgtypes.Key(p.Shared)
		one := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.Public), PresharedKey: &shared, ReplaceAllowedIPs: true}
		for _, a := range p.Allowed {
			one.AllowedIPs = append(one.AllowedIPs, net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
		}
		if p.At.IsValid() {
			one.Endpoint = net.UDPAddrFromAddrPort(p.At)
		}
		c.Peers = append(c.Peers, one)
	}
	if err := k.configure("add peers to", c); err != nil {
		return err
	}
	return k.speak(peers)
}

// speak has a keepalive begin, which is sent at once, and end again.
func (k kernelHub) speak(peers []Peer) error {
	for _, keepalive := range []time.Duration{time.Second, 0} {
		var c wgtypes.Config
		for _, p := range peers {
			if p.Speak && p.At.IsValid() {
				c.Peers = append(c.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.Public), UpdateOnly: true, PersistentKeepaliveInterval: &keepalive})
			}
		}
		if len(c.Peers) == 0 {
			return nil
		}
		if err := k.configure("speak to peers of", c); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements Hub.
func (k kernelHub) Remove(keys ...Key) error {
	var c wgtypes.Config
	for _, key := range keys {
		c.Peers = append(c.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true})
	}
	return k.configure("take peers from", c)
}

func (k kernelHub) configure(what string, c wgtypes.Config) error {
	if err := k.control.ConfigureDevice(k.name, c); err != nil {
		return fmt.Errorf("%s WireGuard device %s: %w", what, k.name, err)
	}
	return nil
}

// Peers implements Hub.
func (k kernelHub) Peers() (map[Key]PeerStats, error) {
	d, err := k.control.Device(k.name)
	if err != nil {
		return nil, fmt.Errorf("ask WireGuard device %s: %w", k.name, err)
	}
	all := make(map[Key]PeerStats, len(d.Peers))
	for _, p := range d.Peers {
		one := PeerStats{Stats: statsOf(p)}
		if p.Endpoint != nil {
			one.Endpoint = p.Endpoint.AddrPort()
		}
		all[Key(p.PublicKey)] = one
	}
	return all, nil
}

// userHub is a device of this process.
type userHub struct{ *user }

func newUserHub(ns *enter.Namespace, c HubConfig) (Hub, error) {
	file, err := openTUN(ns, c.Name, 0, c.MTU)
	if err != nil {
		return nil, err
	}
	u := &user{device: device.NewDevice(file, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})}
	err = u.device.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\n", c.Private[:], c.Port))
	if err == nil {
		err = ns.Do(u.device.Up) // its sockets are born here
	}
	if err != nil {
		u.device.Close()
		return nil, fmt.Errorf("configure: %w", err)
	}
	return userHub{u}, nil
}

// Put implements Hub.
func (u userHub) Put(peers ...Peer) error {
	var b, after strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&b, "public_key=%x\npreshared_key=%x\nreplace_allowed_ips=true\n", p.Public[:], p.Shared[:])
		for _, a := range p.Allowed {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
		if p.At.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.At)
		}
		if p.At.IsValid() && p.Speak { // a keepalive that begins is sent at once
			fmt.Fprintf(&b, "persistent_keepalive_interval=1\n")
			fmt.Fprintf(&after, "public_key=%x\nupdate_only=true\npersistent_keepalive_interval=0\n", p.Public[:])
		}
	}
	if err := u.set("add peers to", b.String()); err != nil {
		return err
	}
	return u.set("speak to peers of", after.String())
}

// Remove implements Hub.
func (u userHub) Remove(keys ...Key) error {
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "public_key=%x\nremove=true\n", key[:])
	}
	return u.set("take peers from", b.String())
}

func (u userHub) set(what, text string) error {
	if err := u.device.IpcSet(text); err != nil {
		return fmt.Errorf("%s a WireGuard device: %w", what, err)
	}
	return nil
}

// Peers implements Hub.
func (u userHub) Peers() (map[Key]PeerStats, error) {
	text, err := u.device.IpcGet()
	if err != nil {
		return nil, fmt.Errorf("ask a WireGuard device: %w", err)
	}
	return parsePeers(text), nil
}
