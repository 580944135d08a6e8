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
)

// user is a device of this process.
type user struct {
	device *device.Device
	peer   Key
}

// NewUser makes a device of this process, also where the kernel has WireGuard.
func NewUser(ns *enter.Namespace, c Config) (Device, error) {
	file, err := openTUN(ns, c)
	if err != nil {
		return nil, err
	}
	u := &user{peer: c.Peer, device: device.NewDevice(file, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})}
	if err := u.device.IpcSet(c.ipc()); err != nil {
		u.device.Close()
		return nil, fmt.Errorf("configure: %w", err)
	}
	if err := u.device.Up(); err != nil {
		u.device.Close()
		return nil, fmt.Errorf("open its sockets: %w", err)
	}
	return u, nil
}

// openTUN makes the device in the namespace.
func openTUN(ns *enter.Namespace, c Config) (*born, error) {
	request, err := unix.NewIfreq(c.Name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd := -1
	err = ns.Do(func() (err error) { // a TUN is born where the one is that opens the file
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("make a TUN: %w", err)
		}
		return nil
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
	return &born{file, c.MTU}, nil
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

// Stats implements Device.
func (u *user) Stats() (Stats, error) {
	text, err := u.device.IpcGet()
	if err != nil {
		return Stats{}, fmt.Errorf("ask a WireGuard device: %w", err)
	}
	var s Stats
	var sec, nsec int64
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		n, _ := strconv.ParseInt(value, 10, 64) // those of the keys below are numbers
		switch key {
		case "last_handshake_time_sec":
			sec = n
		case "last_handshake_time_nsec":
			nsec = n
		case "rx_bytes":
			s.Received = uint64(n)
		case "tx_bytes":
			s.Sent = uint64(n)
		}
	}
	if sec|nsec != 0 {
		s.Handshake = time.Unix(sec, nsec)
	}
	return s, nil
}

// Move implements Device.
func (u *user) Move(to netip.AddrPort) error {
	err := u.device.IpcSet(fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%s\n", hex.EncodeToString(u.peer[:]), to))
	if err != nil {
		return fmt.Errorf("move a WireGuard device to another endpoint: %w", err)
	}
	return nil
}

// Close implements Device.
func (u *user) Close() error {
	u.device.Close()
	select {
	case <-u.device.Wait():
		return nil
	default:
		return errors.New("a WireGuard device did not end")
	}
}

// Kind implements Device.
func (*user) Kind() string { return "user" }
