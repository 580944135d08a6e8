package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/wg"
)

// wireGuard makes the devices of tunnels of WireGuard. It waits for nobody: a gateway does not answer before there is something to send.
type wireGuard struct{}

var _ maker = wireGuard{}

func (wireGuard) check(t *Tunnel) error {
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
	return errors.Join(errs...)
}

func (wireGuard) plan(_ context.Context, s site) (link.Plan, error) {
	t := s.tunnel
	c := wg.Config{MTU: t.MTU, Peer: t.PublicKey, Endpoint: s.to, Keepalive: t.Keepalive, DSCP: s.dscp}
	var err error
	if c.Private, err = ReadKey(t.Slots[s.slot].KeyFile); err != nil {
		return link.Plan{}, err
	}
	if t.SharedFile != "" {
		if c.Shared, err = ReadKey(t.SharedFile); err != nil {
			return link.Plan{}, err
		}
	}
	p := c.Plan(t.Slots[s.slot].Addresses)
	if s.trial {
		c.Keepalive = time.Second
		p.Make = func(ns *enter.Namespace, name string, index int) (link.Device, error) {
			c.Name, c.Index = name, index
			return wg.NewUser(ns, c) // it speaks without being brought up, which the kernel's does not
		}
	}
	return p, nil
}

// maxKeyFile bounds what is read of a key's file.
const maxKeyFile = 256

// ReadKey reads a key from a file that only its owner, root, may read.
func ReadKey(path string) (wg.Key, error) {
	b, err := readSecret(path, maxKeyFile)
	defer clear(b)
	if err != nil {
		return wg.Key{}, err
	}
	k, err := wg.ParseKey(strings.TrimSpace(string(b)))
	if err != nil {
		return wg.Key{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}
