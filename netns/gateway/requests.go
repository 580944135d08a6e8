package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// Allocate gives a client a lease. Asked again with the same key it gives the same one. Errors wrap those of errdefs.
func (g *Gateway) Allocate(client string, r provision.Allocate) (*provision.Granted, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	l, written, err := g.allocate(client, r)
	if err != nil {
		return nil, err
	}
	if err := g.journal.wait(written); err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.leases[l.ID] == l {
			_, undone := g.endLocked(Unwritten, l)
			err = errors.Join(err, undone)
		}
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return g.granted(l), nil
}

func (g *Gateway) allocate(client string, r provision.Allocate) (*lease, *batch, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, _ := wg.ParseKey(r.PublicKey) // it was checked
	if l := g.leases[g.keys[key]]; l != nil && l.Client == client {
		return l, g.journal.last(), nil
	}
	class, err := g.admitLocked(client, key, r.Class)
	if err != nil {
		return nil, nil, err
	}
	n, ok := g.addresses.take()
	if !ok {
		return nil, nil, fmt.Errorf("all addresses of the pool are taken: %w", errdefs.ErrResourceExhausted)
	}
	l := &lease{ID: newID(), Client: client, Number: n, Key: r.PublicKey, Class: class, until: g.now().Add(g.config.Term)}
	if r.Preshared {
		l.Shared = newShared()
	}
	if err := g.plane.put(l.peer(g.addresses), g.rated(l)); err != nil {
		g.addresses.free(n)
		return nil, nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	g.leases[l.ID], g.keys[key] = l, l.ID
	g.figures.Given++
	g.own(l)
	return l, g.journal.add(entry{Lease: l}), nil
}

// coolSpare is how many addresses a client may hold besides twice its leases by giving them back and taking others, until the kernel has forgotten what
// they did: else a client with few leases holds a small pool.
const coolSpare = 16

// admitLocked tells which class a new lease of a client is of, or why there is none for it.
func (g *Gateway) admitLocked(client string, key wg.Key, class string) (string, error) {
	c, ok := g.clients[client]
	has := 0
	for _, l := range g.leases {
		if l.Client == client {
			has++
		}
	}
	class = cmp.Or(class, first(c.Classes))
	switch {
	case !ok:
		return "", fmt.Errorf("%s is not in the gateway's list of clients: %w", client, errdefs.ErrPermissionDenied)
	case g.keys[key] != "" || key == g.config.Private.Public():
		return "", fmt.Errorf("the key is another one's: %w", errdefs.ErrInvalidArgument)
	case class != "" && !slices.Contains(c.Classes, class):
		return "", fmt.Errorf("class %q is not one of those that the gateway lets %s have: %w", class, client, errdefs.ErrInvalidArgument)
	case has >= c.Leases:
		return "", fmt.Errorf("%s has all %d leases that the gateway lets it have: %w", client, c.Leases, errdefs.ErrResourceExhausted)
	case has+g.cool[client] >= 2*c.Leases+coolSpare:
		return "", fmt.Errorf("%s gives leases back faster than their addresses can be given out again: %w", client, errdefs.ErrResourceExhausted)
	case len(g.leases) >= g.config.Leases:
		return "", fmt.Errorf("the gateway has given all of its %d leases: %w", g.config.Leases, errdefs.ErrResourceExhausted)
	}
	return class, nil
}

// Rekey has a client's lease go on with another key. What is under way with the old one is lost, and sent again by who sent it.
func (g *Gateway) Rekey(client, id string, r provision.Rekey) (*provision.Granted, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	l, written, err := g.rekey(client, id, r)
	if err != nil {
		return nil, err
	}
	if err := g.journal.wait(written); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable) // the next batch has all leases as they are
	}
	return g.granted(l), nil
}

func (g *Gateway) rekey(client, id string, r provision.Rekey) (*lease, *batch, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.leases[id]
	if old == nil || old.Client != client {
		return nil, nil, noLease(id)
	}
	if old.Key == r.PublicKey { // the answer was lost
		return old, g.journal.last(), nil
	}
	key, _ := wg.ParseKey(r.PublicKey) // it was checked
	if g.keys[key] != "" || key == g.config.Private.Public() {
		return nil, nil, fmt.Errorf("the key is another one's: %w", errdefs.ErrInvalidArgument)
	}
	l := *old
	l.Key, l.Shared, l.until = r.PublicKey, "", g.now().Add(g.config.Term)
	if r.Preshared {
		l.Shared = newShared()
	}
	if err := g.plane.replace(l.peer(g.addresses), old.public()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	delete(g.keys, old.public())
	g.leases[id], g.keys[key] = &l, id
	return &l, g.journal.add(entry{Lease: &l}), nil
}

func noLease(id string) error {
	return fmt.Errorf("there is no lease %s of this node, it has ended: %w", id, errdefs.ErrNotFound)
}

// Renew keeps a client's leases for another term. It says which ones there are not.
func (g *Gateway) Renew(client string, r provision.Renew) (*provision.Renewed, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	out := &provision.Renewed{Version: provision.Version, Server: g.server(), Seconds: g.seconds(g.config.Term)}
	g.mu.Lock()
	defer g.mu.Unlock()
	until := g.now().Add(g.config.Term)
	for _, id := range r.Leases {
		if l := g.leases[id]; l != nil && l.Client == client {
			l.until = until
		} else {
			out.Gone = append(out.Gone, id)
		}
	}
	return out, nil
}

// Release ends a client's lease.
func (g *Gateway) Release(client, id string) error {
	g.mu.Lock()
	l := g.leases[id]
	if l == nil || l.Client != client {
		g.mu.Unlock()
		return noLease(id)
	}
	written, err := g.endLocked(Released, l)
	g.mu.Unlock()
	if err == nil {
		err = g.journal.wait(written)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}

// Stats tells how a client's leases fare.
func (g *Gateway) Stats(client string) (*provision.Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); now.Sub(g.looked) >= time.Second { // asking the device costs what all peers cost
		seen, err := g.plane.peers()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
		}
		g.seen, g.looked = seen, now
	}
	out := &provision.Stats{Version: provision.Version, Most: g.clients[client].Leases}
	for _, id := range slices.Sorted(maps.Keys(g.leases)) {
		l := g.leases[id]
		if l.Client != client {
			continue
		}
		s := g.seen[l.public()]
		one := provision.LeaseStat{ID: id, Addresses: g.addresses.of(l.Number), Class: l.Class, Seconds: g.seconds(l.until.Sub(g.now())),
			Handshake: -1, Received: s.Received, Sent: s.Sent}
		if !s.Handshake.IsZero() {
			one.Handshake = int64(g.now().Sub(s.Handshake) / time.Second)
		}
		out.Leases = append(out.Leases, one)
	}
	return out, nil
}

func (g *Gateway) seconds(d time.Duration) int { return max(int(d/time.Second), 0) }

func (g *Gateway) server() provision.Server {
	return provision.Server{PublicKey: g.config.Private.Public().Text(), Endpoints: g.config.Endpoints, MTU: g.config.MTU}
}

func (g *Gateway) granted(l *lease) *provision.Granted {
	out := provision.Lease{ID: l.ID, PublicKey: l.Key, PresharedKey: l.Shared, Addresses: g.addresses.of(l.Number), Class: l.Class,
		Seconds: g.seconds(g.config.Term)}
	for _, c := range g.config.Classes {
		if c.Name == l.Class {
			out.Rate = c.Rate
		}
	}
	return &provision.Granted{Version: provision.Version, Server: g.server(), Lease: out}
}
