package wg

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
)

// user is a device of this process.
type user struct {
	device *device.Device
	running
}

// NewUser makes a device of this process, also where the kernel has WireGuard.
func NewUser(ns *enter.Namespace, c Config) (link.Device, error) {
	file, err := openTUN(ns, c.Name, c.Index, c.MTU)
	if err != nil {
		return nil, err
	}
	u := &user{device: device.NewDevice(file, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})}
	u.c = c
	if err := u.device.IpcSet(c.ipc()); err != nil {
		u.device.Close()
		return nil, fmt.Errorf("configure: %w", err)
	}
	if err := u.device.Up(); err != nil {
		u.device.Close()
		return nil, fmt.Errorf("open its sockets: %w", err)
	}
	if err := u.class(c.DSCP); err != nil {
		u.device.Close()
		return nil, err
	}
	return u, nil
}

// openTUN makes the device in the namespace. An index that is taken, or 0, leaves the choice to the kernel.
func openTUN(ns *enter.Namespace, name string, index, mtu int) (*born, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd := -1
	err = ns.Do(func() (err error) { // a TUN is born where the one is that opens the file
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		if index != 0 {
			if err = makeTUN(fd, request, index); !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
		return makeTUN(fd, request, 0)
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	file, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("TUN: %w", err)
	}
	return &born{file, mtu}, nil
}

// makeTUN has an open file be a TUN of this namespace.
func makeTUN(fd int, request *unix.Ifreq, index int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETIFINDEX, index); err != nil {
		return fmt.Errorf("index %d of a TUN: %w", index, err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make a TUN: %w", err)
	}
	return nil
}

// born is a TUN in another namespace: what the library would ask for by name, it would ask in this one.
type born struct {
	tun.Device
	mtu int
}

// MTU implements tun.Device.
func (b *born) MTU() (int, error) { return b.mtu, nil }

// ipc is the configuration in the words of WireGuard's cross-platform interface.
func (c Config) ipc() string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "%s=%s\n", key, value) }
	set("private_key", hex.EncodeToString(c.Private[:]))
	set("public_key", hex.EncodeToString(c.Peer[:]))
	if c.Shared != (Key{}) {
		set("preshared_key", hex.EncodeToString(c.Shared[:]))
	}
	set("endpoint", c.Endpoint.String())
	set("persistent_keepalive_interval", strconv.Itoa(int(c.Keepalive/time.Second)))
	set("allowed_ip", "0.0.0.0/0")
	set("allowed_ip", "::/0")
	return b.String()
}

// Stats implements link.Device.
func (u *user) Stats() (link.Stats, error) {
	text, err := u.device.IpcGet()
	if err != nil {
		return link.Stats{}, fmt.Errorf("ask a WireGuard device: %w", err)
	}
	return parsePeers(text)[u.peer()].Stats, nil
}

// parsePeers reads how each peer fares from a device's answer.
func parsePeers(text string) map[Key]PeerStats {
	all := make(map[Key]PeerStats)
	var key Key
	var sec, nsec int64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "public_key" {
			b, _ := hex.DecodeString(value) // as the library writes it
			key = Key{}
			copy(key[:], b)
		}
		n, _ := strconv.ParseInt(value, 10, 64) // those of the keys below are numbers
		s := all[key]
		switch name {
		case "last_handshake_time_sec":
			sec = n
		case "last_handshake_time_nsec":
			if nsec = n; sec|nsec != 0 {
				s.Handshake = time.Unix(sec, nsec)
			}
		case "rx_bytes":
			s.Received = uint64(n)
		case "tx_bytes":
			s.Sent = uint64(n)
		case "endpoint":
			s.Endpoint, _ = netip.ParseAddrPort(value)
		default:
			continue
		}
		all[key] = s
	}
	return all
}

// Move implements link.Device.
func (u *user) Move(to netip.AddrPort) error {
	return u.change(func(c Config) Config {
		c.Endpoint = to
		return c
	}, func(c Config, _ bool) error { return u.set(c, true) })
}

// Set implements Rekeyed.
func (u *user) Set(next Config) error { return u.change(func(Config) Config { return next }, u.set) }

func (u *user) set(c Config, fresh bool) error {
	text, keepalive := c.ipc(), fmt.Sprintf("public_key=%x\nupdate_only=true\npersistent_keepalive_interval=", c.Peer[:])
	if fresh {
		text = strings.Replace(text, "public_key=", "replace_peers=true\npublic_key=", 1)
	}
	last := strconv.Itoa(int(c.Keepalive / time.Second))
	for _, one := range []string{text, keepalive + "0\n", keepalive + "1\n", keepalive + last + "\n"} { // one that begins is sent at once
		if err := u.device.IpcSet(one); err != nil {
			return fmt.Errorf("change the keys or the endpoint of a WireGuard device: %w", err)
		}
	}
	return nil
}

// Close implements link.Device.
func (u *user) Close() error {
	u.device.Close()
	select {
	case <-u.device.Wait():
		return nil
	default:
		return errors.New("a WireGuard device did not end")
	}
}

// Kind implements link.Device.
func (*user) Kind() string { return "user" }
