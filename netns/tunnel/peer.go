package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// peer is a lease with its keys.
type peer struct {
	id string

	mu      sync.Mutex
	private wg.Key           // guarded by mu, as is all that follows
	server  provision.Server // how the gateway is reached
	lease   provision.Lease
	until   time.Time
	keyed   time.Time  // since when it has its key
	device  wg.Rekeyed // nil: none
	running wg.Config  // of the device
	slot    int
	isLost  bool // the gateway does not know it any more
}

func (p *peer) state() (provision.Server, provision.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.server, p.lease
}

func (p *peer) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isLost
}

// carry says which device has the peer.
func (p *peer) carry(d wg.Rekeyed, c wg.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.device, p.running = d, c
}

// config is a device's with the keys that there are now.
func (p *peer) config(c wg.Config) wg.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.configLocked(c)
}

func (p *peer) configLocked(c wg.Config) wg.Config {
	c.Private, c.Shared = p.private, wg.Key{}
	c.Peer, _ = wg.ParseKey(p.server.PublicKey) // it was checked, as was the next
	if p.lease.PresharedKey != "" {
		c.Shared, _ = wg.ParseKey(p.lease.PresharedKey)
	}
	return c
}

// extend notes another term, and takes over where the gateway is reached now.
func (p *peer) extend(until time.Time, server provision.Server, resolve resolver) error {
	p.mu.Lock()
	p.until = until
	same := server.PublicKey == p.server.PublicKey && slices.Equal(server.Endpoints, p.server.Endpoints)
	p.mu.Unlock()
	if same {
		return nil
	}
	return p.move(server, resolve, func() {})
}

// change takes over another key.
func (p *peer) change(g *provision.Granted, key wg.Key, now time.Time, resolve resolver) error {
	return p.move(g.Server, resolve, func() { p.private, p.lease, p.keyed, p.until = key, g.Lease, now, now.Add(g.Lease.Term()) })
}

// move has the device, where there is one, go on with the server that there is now, and with what change notes, under mu. Other endpoints are
// resolved before, without mu: who looks at the device does not wait for names. Where that fails the device stays with the endpoint that it has,
// and the next answer of the gateway's tries again.
func (p *peer) move(server provision.Server, resolve resolver, change func()) error {
	var to netip.AddrPort
	var failed error
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := func() bool { return p.device != nil && !slices.Equal(server.Endpoints, p.server.Endpoints) }
	if moved() { // else it stays with the endpoint that it uses, which need not be the first
		p.mu.Unlock()
		to, failed = resolve(server.Endpoints[0])
		p.mu.Lock()
	}
	change()
	if moved() && !to.IsValid() {
		server.Endpoints = p.server.Endpoints
	}
	p.server = server
	if p.device == nil {
		return nil
	}
	if to.IsValid() {
		p.running.Endpoint = to
	}
	p.running = p.configLocked(p.running)
	return errors.Join(failed, p.device.Set(p.running))
}

// moved notes that the device was led to another endpoint.
func (p *peer) moved(to netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running.Endpoint = to
}

// resolver finds an endpoint's address.
type resolver func(endpoint string) (netip.AddrPort, error)

func resolveAny(ctx context.Context) resolver {
	return func(endpoint string) (netip.AddrPort, error) { return resolve(ctx, endpoint) }
}

func (p *peer) ends() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until
}
