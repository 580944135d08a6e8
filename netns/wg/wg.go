// Package wg makes WireGuard devices inside a container's network namespace, whose keys and UDP sockets stay outside: the kernel's
// where it has WireGuard, else golang.zx2c4.com/wireguard's in this process (DESIGN section 10, trap 8). Either is born in the
// namespace; nothing is moved, which takes 14 to 41 ms and leaves a device that reopens its socket in the wrong place.
//
// A device of this process ends with it, and the device in the namespace too. What routes lead there is package route's.
// Methods may be called from any goroutine.
package wg

import (
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
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

// Text is the key as wg(8) writes it.
func (k Key) Text() string { return base64.StdEncoding.EncodeToString(k[:]) }

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
	Index     int    // of the interface; one that is taken, or 0: the kernel's choice
	MTU       int    // of what goes through, in bytes
	Private   Key
	Peer      Key            // the gateway's public key
	Shared    Key            // the pre-shared key; zero: none
	Endpoint  netip.AddrPort // the gateway's, as this process reaches it
	Keepalive time.Duration  // 0: none
	DSCP      uint8          // of the packets to the gateway, which know nothing of what is in them; 0: the default
}

// running is the configuration that a device has now.
type running struct {
	mu sync.Mutex
	c  Config // guarded by mu
}

// change has set bring another one in force. fresh says that the gateway is another one, or elsewhere: it may know nothing of the
// session that there is, which WireGuard by itself gives up only after 15 s without an answer.
func (r *running) change(of func(Config) Config, set func(c Config, fresh bool) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := of(r.c)
	if err := set(c, c.Peer != r.c.Peer || c.Endpoint != r.c.Endpoint); err != nil {
		return err
	}
	r.c = c
	return nil
}

func (r *running) peer() Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.c.Peer
}

// Plan is the device of a configuration, whose name and index do not matter.
func (c Config) Plan(addresses []netip.Prefix) link.Plan {
	return link.Plan{Addresses: addresses, MTU: c.MTU, Make: func(ns *enter.Namespace, name string, index int) (link.Device, error) {
		c.Name, c.Index = name, index
		return New(ns, c)
	}}
}

// Rekeyed is a device whose keys, peer and endpoint can be changed under what it carries: New's and NewUser's.
type Rekeyed interface {
	link.Device
	// Set changes everything but name and MTU, and speaks to the gateway at once.
	Set(Config) error
}

// New makes a device in a namespace, of kind "kernel" or "user". It is down and has no address yet.
func New(ns *enter.Namespace, c Config) (link.Device, error) {
	d, err := link.Device(nil), errors.ErrUnsupported
	if c.DSCP == 0 { // nobody can set that of the kernel's socket
		d, err = newKernel(ns, c)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		d, err = NewUser(ns, c)
	}
	if err != nil {
		return nil, fmt.Errorf("WireGuard device %s: %w", c.Name, err)
	}
	return d, nil
}
