// Package wg makes WireGuard devices inside a container's network namespace, whose keys and UDP sockets stay outside: the kernel's
// where it has WireGuard, else golang.zx2c4.com/wireguard's in this process (DESIGN section 10, trap 8). Either is born in the
// namespace; nothing is moved, which takes 14 to 41 ms and leaves a device that reopens its socket in the wrong place.
//
// A Device of this process ends with it, and the device in the namespace too. What routes lead there is package route's.
// Methods may be called from any goroutine.
package wg

import (
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/enter"
)

// Key is a key of WireGuard: private, public or shared. It prints as nothing that tells it.
type Key [32]byte

// String implements fmt.Stringer.
func (Key) String() string { return "key" }

// GoString implements fmt.GoStringer.
func (Key) GoString() string { return "key" }

// ParseKey reads a key as wg(8) writes it: 32 bytes in base64.
func ParseKey(text string) (Key, error) {
	var k Key
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, errors.New("a WireGuard key is 32 bytes in base64, 44 characters, as wg genkey writes it")
	}
	copy(k[:], b)
	if k == (Key{}) {
		return k, errors.New("a WireGuard key of zeroes is none")
	}
	return k, nil
}

// Public is the public key of a private one.
func (k Key) Public() Key {
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return Key{} // 32 bytes are always one
	}
	return Key(private.PublicKey().Bytes())
}

// Config is one device with its one peer, the gateway.
type Config struct {
	Name      string // of the device
	MTU       int    // of what goes through, in bytes
	Private   Key
	Peer      Key            // the gateway's public key
	Shared    Key            // the pre-shared key; zero: none
	Endpoint  netip.AddrPort // the gateway's, as this process reaches it
	Keepalive time.Duration  // 0: none
}

// Stats is how a device fares.
type Stats struct {
	Handshake time.Time // the last one; zero: none yet
	Received  uint64    // bytes
	Sent      uint64
}

// Device is one in a namespace.
type Device interface {
	// Stats reads how it fares.
	Stats() (Stats, error)
	// Move has the device send to another endpoint of the same gateway.
	Move(netip.AddrPort) error
	// Close ends the device, in the namespace as well. Once more it does nothing.
	Close() error
	// Kind is "kernel" or "user".
	Kind() string
}

// New makes a device in a namespace. It is down and has no address yet.
func New(ns *enter.Namespace, c Config) (Device, error) {
	d, err := newKernel(ns, c)
	if errors.Is(err, errors.ErrUnsupported) {
		d, err = NewUser(ns, c)
	}
	if err != nil {
		return nil, fmt.Errorf("WireGuard device %s: %w", c.Name, err)
	}
	return d, nil
}
