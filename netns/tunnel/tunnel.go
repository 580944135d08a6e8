// Package tunnel chooses tunnels and keeps count of who has which (Pool), and serves that to a node (Service), with the devices in
// the containers' namespaces (package egress). Its process is `forefend tunneld`: it alone holds keys and sockets, and outlives the
// daemon. When it ends, so do the devices, and what went through them goes nowhere.
package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/wg"
)

// Kind is what a tunnel is made of.
type Kind string

// The kinds.
const (
	WireGuard Kind = "wireguard"
	Direct    Kind = "direct" // the container's own uplink, without encryption
)

// Tunnel is one that the node may use, as configured.
type Tunnel struct {
	Name       string
	Kind       Kind
	Class      string // tunnels of one class stand in for each other; "": the tunnel's own name
	Encryption flow.Encryption

	Endpoints  []string // HOST:PORT, of one gateway; the first that answers
	PublicKey  wg.Key   // the gateway's
	SharedFile string   // file with the pre-shared key, "" for none
	Slots      []Slot
	Dedicated  int // how many of the slots are kept for dedicated leases, the last ones
	MTU        int
	Keepalive  time.Duration
	DeadAfter  time.Duration // so long after something was sent and nothing came back, the gateway counts as gone
}

// Slot is one peer of the gateway: a key and the addresses that it is allowed. Two devices cannot use one at once.
type Slot struct {
	KeyFile   string
	Addresses []netip.Prefix
}

// maxKeyFile bounds what is read of a key's file.
const maxKeyFile = 256

// ReadKey reads a key from a file that only its owner, root, may read.
func ReadKey(path string) (wg.Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return wg.Key{}, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return wg.Key{}, fmt.Errorf("key file: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return wg.Key{}, fmt.Errorf("key file %s is not root's: chown root it", path)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return wg.Key{}, fmt.Errorf("key file %s has mode %s: chmod 600 it, nobody else may read it", path, info.Mode())
	}
	b := make([]byte, maxKeyFile)
	defer clear(b)
	n, err := f.Read(b)
	if err != nil {
		return wg.Key{}, fmt.Errorf("key file %s: %w", path, err)
	}
	k, err := wg.ParseKey(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return wg.Key{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// Check reads every key of a tunnel and forgets them again. The errors name the files.
func (t *Tunnel) Check() error {
	var errs []error
	for _, s := range t.Slots {
		if _, err := ReadKey(s.KeyFile); err != nil {
			errs = append(errs, err)
		}
	}
	if t.SharedFile != "" {
		if _, err := ReadKey(t.SharedFile); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tunnel %s: %w", t.Name, err)
	}
	return nil
}

// device is the configuration of a slot's device, with its keys read anew.
func (t *Tunnel) device(slot int, endpoint netip.AddrPort) (wg.Config, error) {
	c := wg.Config{MTU: t.MTU, Peer: t.PublicKey, Endpoint: endpoint, Keepalive: t.Keepalive}
	var err error
	if c.Private, err = ReadKey(t.Slots[slot].KeyFile); err != nil {
		return wg.Config{}, fmt.Errorf("tunnel %s: %w", t.Name, err)
	}
	if t.SharedFile != "" {
		if c.Shared, err = ReadKey(t.SharedFile); err != nil {
			return wg.Config{}, fmt.Errorf("tunnel %s: %w", t.Name, err)
		}
	}
	return c, nil
}

// class is what the tunnel stands in for.
func (t *Tunnel) class() string {
	if t.Class != "" {
		return t.Class
	}
	return t.Name
}
