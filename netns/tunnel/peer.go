package tunnel

import (
	"context"
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
	defer p.mu.Unlock()
	p.until = until
	if server.PublicKey == p.server.PublicKey && slices.Equal(server.Endpoints, p.server.Endpoints) {
		return nil
	}
	return p.moveLocked(server, resolve)
}

// change takes over another key.
func (p *peer) change(g *provision.Granted, key wg.Key, now time.Time, resolve resolver) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.private, p.lease, p.keyed, p.until = key, g.Lease, now, now.Add(g.Lease.Term())
	return p.moveLocked(g.Server, resolve)
}

// moveLocked has the device, where there is one, go on with the keys and the server that there are now.
func (p *peer) moveLocked(server provision.Server, resolve resolver) error {
	moved := !slices.Equal(server.Endpoints, p.server.Endpoints)
	p.server = server
	if p.device == nil {
		return nil
	}
	if moved { // else it stays with the endpoint that it uses, which need not be the first
		to, err := resolve(server.Endpoints[0])
		if err != nil {
			return err
		}
		p.running.Endpoint = to
	}
	p.running = p.configLocked(p.running)
	return p.device.Set(p.running)
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
