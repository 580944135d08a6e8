package harness

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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"forefend.dev/forefend/test/network"
)

// GatewayDevice is a gateway's WireGuard device, where packets are as they were in the container.
const GatewayDevice = "gw0"

// Gateway is a WireGuard peer on loopback, in user space, with one slot, and a world of its own behind it.
type Gateway struct {
	*World
	Name string
	// Config is the [[tunnel]] that leads to it, for WithConfig.
	Config string
	device *device.Device
}

const tunnelMTU = 1420

// sized is a TUN of another network namespace, whose size cannot be asked for from here.
type sized struct{ tun.Device }

func (sized) MTU() (int, error) { return tunnelMTU, nil }

// NewGateway makes one whose tunnel has a level of encryption. The caller must Close it.
func NewGateway(name, encryption string) (*Gateway, error) {
	w, err := NewWorld()
	if err != nil {
		return nil, err
	}
	g := &Gateway{World: w, Name: name}
	if err = g.open(); err == nil {
		err = g.configure(encryption)
	}
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("gateway %s: %w", name, err)
	}
	return g, nil
}

// CloseDevice ends the tunnel at this end; the world behind it stays. It may be called again.
func (g *Gateway) CloseDevice() { g.device.Close() }

// open makes the device.
func (g *Gateway) open() error {
	fd := -1
	if err := g.Do(func() (err error) {
		request, err := unix.NewIfreq(GatewayDevice)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun (modprobe tun makes it): %w", err)
		}
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	}); err != nil {
		return err
	}
	file, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return err
	}
	g.device = device.NewDevice(sized{file}, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	g.closers = append(g.closers, g.device.Close)
	return g.Do(func() error {
		link, err := netlink.LinkByName(GatewayDevice)
		if err != nil {
			return err
		}
		err = errors.Join(netlink.LinkSetMTU(link, tunnelMTU), network.Up(GatewayDevice))
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			_, dst, _ := net.ParseCIDR(all)
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index, Scope: unix.RT_SCOPE_LINK}))
		}
		return err
	})
}

// configure makes keys, the gateway's end and the tunnel's configuration.
func (g *Gateway) configure(encryption string) error {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	slot, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	var shared [32]byte
	_, _ = rand.Read(shared[:]) // it never fails
	keys, err := os.MkdirTemp("", "ffkeys-")
	if err != nil {
		return err
	}
	g.closers = append(g.closers, func() { _ = os.RemoveAll(keys) })
	psk, slotKey := filepath.Join(keys, "psk"), filepath.Join(keys, "slot")
	for path, key := range map[string][]byte{psk: shared[:], slotKey: slot.Bytes()} {
		if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := g.device.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=0\npublic_key=%x\npreshared_key=%x\nallowed_ip=10.8.0.2/32\nallowed_ip=fd08::2/128\n",
		own.Bytes(), slot.PublicKey().Bytes(), shared[:])); err != nil {
		return err
	}
	if err := g.device.Up(); err != nil {
		return err
	}
	port, err := g.port()
	if err != nil {
		return err
	}
	g.Config = fmt.Sprintf("[[tunnel]]\nname = %q\nencryption = %q\nendpoints = [\"127.0.0.1:%d\"]\npublic_key = %q\npreshared_key_file = %q\n"+
		"[[tunnel.slot]]\nkey_file = %q\naddresses = [\"10.8.0.2\", \"fd08::2\"]\n",
		g.Name, encryption, port, base64.StdEncoding.EncodeToString(own.PublicKey().Bytes()), psk, slotKey)
	return nil
}

// port is the one the device was given.
func (g *Gateway) port() (int, error) {
	text, err := g.device.IpcGet()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			return strconv.Atoi(p)
		}
	}
	return 0, errors.New("the device tells no port")
}
