package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"forefend.dev/forefend/netns/enter"
)

// sized is a TUN of another namespace, whose size cannot be asked for from here.
type sized struct {
	tun.Device
	mtu int
}

func (s sized) MTU() (int, error) { return s.mtu, nil }

// TUN makes a TUN in a namespace, up, with addresses as Up takes them and a route to everywhere.
func TUN(in *enter.Namespace, name string, mtu int, addresses ...string) (tun.Device, error) {
	fd := -1
	err := in.Do(func() (err error) {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun (modprobe tun makes it): %w", err)
		}
		return errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, request), laidOut(name, mtu, addresses))
	})
	if err != nil {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
		return nil, fmt.Errorf("TUN %s: %w", name, err)
	}
	file, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	return sized{file, mtu}, err
}

func laidOut(name string, mtu int, addresses []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetMTU(link, mtu), Up(name, addresses...))
	for _, all := range []*net.IPNet{{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}} {
		err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: all, LinkIndex: link.Attrs().Index, Scope: unix.RT_SCOPE_LINK}))
	}
	return err
}

// WireGuard runs WireGuard in user space on a TUN, which it closes with itself, and returns where on loopback it listens. settings
// are in the form of the configuration protocol, its peers included; listen_port is added.
func WireGuard(on tun.Device, settings string) (*device.Device, netip.AddrPort, error) {
	d := device.NewDevice(on, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	at, err := listening(d, settings)
	if err != nil {
		d.Close()
		return nil, netip.AddrPort{}, fmt.Errorf("WireGuard in user space: %w", err)
	}
	return d, at, nil
}

func listening(d *device.Device, settings string) (at netip.AddrPort, err error) {
	if err := errors.Join(d.IpcSet("listen_port=0\n"+settings), d.Up()); err != nil {
		return at, err
	}
	text, err := d.IpcGet()
	if err != nil {
		return at, err
	}
	for line := range strings.Lines(text) {
		if port, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			return netip.ParseAddrPort("127.0.0.1:" + port)
		}
	}
	return at, errors.New("the device tells no port")
}
