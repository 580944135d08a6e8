package e2e

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// gateway is a WireGuard peer on loopback, with one slot, and a world of its own behind it, where the same addresses are as in the
// containers' other one.
type gateway struct {
	*outside
	name   string
	asked  *atomic.Int64 // requests that came through it
	device *device.Device
	config string // of the tunnel to it
}

// sized is a TUN of another network namespace, whose size cannot be asked for from here.
type sized struct{ tun.Device }

func (sized) MTU() (int, error) { return tunnelMTU, nil }

const tunnelMTU = 1420

// newGateway makes one whose tunnel has a level of encryption.
func newGateway(t testing.TB, name, encryption string) *gateway {
	t.Helper()
	g := &gateway{outside: &outside{ns: -1}, name: name}
	thread(t, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		g.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(g.ns) })
	fd := -1
	g.in(t, func() (err error) {
		request, err := unix.NewIfreq("gw0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		link, err := netlink.LinkByName("gw0")
		if err != nil {
			return err
		}
		err = errors.Join(netlink.LinkSetMTU(link, tunnelMTU), addressed("lo", worldAddresses...), addressed("gw0"))
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			_, dst, _ := net.ParseCIDR(all)
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index, Scope: unix.RT_SCOPE_LINK}))
		}
		return err
	})
	file, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	g.device = device.NewDevice(sized{file}, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	t.Cleanup(g.device.Close)
	g.configure(t, encryption)
	g.asked = web(t, g.in, name)
	return g
}

// configure makes keys, the gateway's end and the tunnel's configuration.
func (g *gateway) configure(t testing.TB, encryption string) {
	t.Helper()
	own, slot := newPrivate(t), newPrivate(t)
	var shared [32]byte
	_, _ = rand.Read(shared[:]) // it never fails
	dir := t.TempDir()
	key := func(name string, k []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(k)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := g.device.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=0\npublic_key=%x\npreshared_key=%x\nallowed_ip=10.8.0.2/32\nallowed_ip=fd08::2/128\n",
		own.Bytes(), slot.PublicKey().Bytes(), shared[:])); err != nil {
		t.Fatal(err)
	}
	if err := g.device.Up(); err != nil {
		t.Fatal(err)
	}
	text, err := g.device.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	port := 0
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			port, _ = strconv.Atoi(p)
		}
	}
	g.config = fmt.Sprintf("[[tunnel]]\nname = %q\nencryption = %q\nendpoints = [\"127.0.0.1:%d\"]\npublic_key = %q\npreshared_key_file = %q\n"+
		"[[tunnel.slot]]\nkey_file = %q\naddresses = [\"10.8.0.2\", \"fd08::2\"]\n",
		g.name, encryption, port, base64.StdEncoding.EncodeToString(own.PublicKey().Bytes()), key("psk", shared[:]), key("slot", slot.Bytes()))
}

func newPrivate(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
