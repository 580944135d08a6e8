package harness

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"golang.zx2c4.com/wireguard/device"

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

// NewGateway makes one whose tunnel has a level of encryption. The caller must Close it.
func NewGateway(name, encryption string) (*Gateway, error) {
	w, err := NewWorld()
	if err != nil {
		return nil, err
	}
	g := &Gateway{World: w, Name: name}
	if err = g.open(encryption); err != nil {
		g.Close()
		return nil, fmt.Errorf("gateway %s: %w", name, err)
	}
	return g, nil
}

// CloseDevice ends the tunnel at this end; the world behind it stays. It may be called again.
func (g *Gateway) CloseDevice() { g.device.Close() }

// open makes keys, the gateway's end and the tunnel's configuration.
func (g *Gateway) open(encryption string) error {
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
	on, err := network.TUN(g.space, GatewayDevice, tunnelMTU)
	if err != nil {
		return err
	}
	device, at, err := network.WireGuard(on, fmt.Sprintf("private_key=%x\npublic_key=%x\npreshared_key=%x\nallowed_ip=10.8.0.2/32\nallowed_ip=fd08::2/128\n",
		own.Bytes(), slot.PublicKey().Bytes(), shared[:]))
	if err != nil {
		return err
	}
	g.device = device
	g.closers = append(g.closers, device.Close)
	g.Config = fmt.Sprintf("[[tunnel]]\nname = %q\nencryption = %q\nendpoints = [%q]\npublic_key = %q\npreshared_key_file = %q\n"+
		"[[tunnel.slot]]\nkey_file = %q\naddresses = [\"10.8.0.2\", \"fd08::2\"]\n",
		g.Name, encryption, at, base64.StdEncoding.EncodeToString(own.PublicKey().Bytes()), psk, slotKey)
	return nil
}
