package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/wg"
)

// Gateway hands out leases. Its methods may be called from any goroutine.
type Gateway struct {
	config  Config
	journal *journal
	plane   plane
	now     func() time.Time

	seal     ed25519.PrivateKey // of receipts
	book     *book
	counting sync.WaitGroup

	mu        sync.Mutex
	clients   map[string]Client       // guarded by mu, as is all that follows
	addresses *addresses              // what Numbers leases have
	leases    map[string]*lease       // by id; a lease is not changed, but replaced
	keys      map[wg.Key]string       // ids, by the node's public key
	cooling   []*lease                // that ended, whose connections are not forgotten yet
	cool      map[string]int          // how many of those each client had, also while they are being forgotten
	seen      map[wg.Key]wg.PeerStats // how peers fared
	looked    time.Time               // when
	figures   Figures                 // what is counted of them
}

// Open puts a gateway in force in a network namespace, with the leases that it had in an earlier process: each for a whole term, in which its
// node can renew it.
func Open(ctx context.Context, ns *enter.Namespace, c Config) (*Gateway, error) {
	g, err := load(ctx, c)
	if err != nil {
		return nil, err
	}
	var peers []wg.Peer
	var rated []nft.Rated
	heard := g.heard()
	for _, l := range g.leases {
		p := l.peer(g.addresses)
		p.At, p.Speak = heard[p.Public], true
		peers = append(peers, p)
		rated = append(rated, g.rated(l)...)
	}
	if g.plane, err = openPlane(ns, c, g.addresses, peers, rated); err != nil {
		return nil, errors.Join(fmt.Errorf("open the gateway: %w", err), g.journal.close())
	}
	if err := g.openReceipts(ctx, ns); err != nil {
		return nil, errors.Join(fmt.Errorf("open the gateway: %w", err), g.plane.close(), g.journal.close())
	}
	return g, nil
}

// load makes a gateway of what is written down, which does nothing yet.
func load(ctx context.Context, c Config) (*Gateway, error) {
	g := &Gateway{config: c, now: time.Now, leases: make(map[string]*lease), keys: make(map[wg.Key]string), clients: byName(c.Clients),
		cool: make(map[string]int), figures: Figures{Ended: make(map[Reason]uint64)}}
	var err error
	if g.addresses, err = newAddresses(c.Pool4, c.Pool6); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, fmt.Errorf("directory of leases: %w", err)
	}
	j, old, damage, err := openJournal(c.State)
	if err != nil {
		return nil, err
	}
	if damage != nil {
		log.G(ctx).WithError(damage).Error("forefend gateway: leases")
	}
	g.journal = j
	j.snapshot = g.snapshot
	g.restore(ctx, old)
	return g, j.wait(j.last())
}

// restore takes leases of before up again, as far as they are of a client and of the pools. Nobody else has g yet.
func (g *Gateway) restore(ctx context.Context, old map[string]*lease) {
	for _, id := range slices.Sorted(maps.Keys(old)) {
		l := old[id]
		client, known := g.clients[l.Client]
		why := ""
		switch {
		case !known:
			why = "its node is no client any more"
		case g.keys[l.public()] != "":
			why = "another one has its key"
		case !g.addresses.restore(l.Number):
			why = "its addresses are of no pool any more"
		}
		if why != "" {
			log.G(ctx).WithField("client", l.Client).Warn("forefend gateway: a lease of before has ended: " + why)
			continue
		}
		if !slices.Contains(client.Classes, l.Class) {
			l.Class = first(client.Classes)
		}
		l.until = g.now().Add(g.config.Term)
		g.leases[id], g.keys[l.public()] = l, id
	}
}

func byName(clients []Client) map[string]Client {
	all := make(map[string]Client, len(clients))
	for _, c := range clients {
		all[c.Name] = c
	}
	return all
}

func first(classes []string) string {
	if len(classes) == 0 {
		return ""
	}
	return classes[0]
}

// snapshot is for the journal.
func (g *Gateway) snapshot() ([]entry, *batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []entry
	for _, id := range slices.Sorted(maps.Keys(g.leases)) {
		all = append(all, entry{Lease: g.leases[id]})
	}
	return all, g.journal.take()
}

// rated is the lease's peer, where its class has a rate.
func (g *Gateway) rated(l *lease) []nft.Rated {
	if l.Class == "" {
		return nil
	}
	return []nft.Rated{{Tail: g.addresses.tail(l.Number), Class: l.Class}}
}

// Run looks after leases until ctx ends. Close is for after it.
func (g *Gateway) Run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for saved := g.now(); ; {
		select {
		case <-ticker.C:
			if g.now().Sub(saved) > heardEvery {
				saved = g.now()
				if err := g.saveHeard(); err != nil {
					log.G(ctx).WithError(err).Warn("forefend gateway: its peers will be late to notice that it was started anew")
				}
			}
			if err := g.collect(ctx); err != nil {
				log.G(ctx).WithError(err).Error("forefend gateway: collect leases that have ended")
			}
			if err := g.mend(ctx); err != nil {
				log.G(ctx).WithError(err).Error("forefend gateway: its rules are gone, and cannot be put in force again")
			}
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the device, takes rules away and puts settings back. Leases stay written down.
func (g *Gateway) Close() error {
	return errors.Join(g.closeReceipts(), g.saveHeard(), g.plane.close(), g.journal.close())
}

// collect ends leases that were not renewed, and has the addresses of those that ended given out again.
func (g *Gateway) collect(ctx context.Context) error {
	g.mu.Lock()
	var late, revoked []*lease
	for _, l := range g.leases {
		if _, known := g.clients[l.Client]; !known { // SetClients tried to end them
			revoked = append(revoked, l)
		} else if g.now().After(l.until) {
			late = append(late, l)
		}
	}
	written, err := g.endLocked(Expired, late...)
	if err != nil {
		late = nil // they are there still
	}
	other, failed := g.endLocked(Revoked, revoked...)
	if failed != nil {
		revoked = nil
	}
	err = errors.Join(err, failed)
	cooling := g.cooling
	g.cooling = nil
	g.mu.Unlock()
	for _, l := range late {
		log.G(ctx).WithField("client", l.Client).WithField("lease", l.ID).Info("forefend gateway: a lease was not renewed, and has ended")
	}
	tellRevoked(ctx, revoked)
	for _, b := range []*batch{written, other} {
		if b != nil {
			err = errors.Join(err, g.journal.wait(b))
		}
	}
	return errors.Join(err, g.free(cooling))
}

// mend puts rules in force again that somebody flushed. Without them peers pass unchanged and to one another.
func (g *Gateway) mend(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var rated []nft.Rated
	for _, l := range g.leases {
		rated = append(rated, g.rated(l)...)
	}
	gone, err := g.plane.mend(rated)
	if gone && err == nil {
		g.figures.Mended++
		log.G(ctx).Error("forefend gateway: somebody took rules of its netfilter away (nft flush ruleset, nft flush table?); all are in force again")
	}
	return err
}

// free has the addresses of leases that ended given out again, once nothing is known of the connections that they had.
func (g *Gateway) free(ended []*lease) error {
	if len(ended) == 0 {
		return nil
	}
	gone := make(map[netip.Addr]bool)
	for _, l := range ended {
		for _, p := range g.addresses.of(l.Number) {
			gone[p.Addr()] = true
		}
	}
	err := g.plane.forget(gone)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.cooling = append(g.cooling, ended...)
		return err
	}
	for _, l := range ended {
		g.addresses.free(l.Number)
		if g.cool[l.Client]--; g.cool[l.Client] == 0 {
			delete(g.cool, l.Client)
		}
	}
	return nil
}

// endLocked ends leases, for the kernel first: what it does not let go of is still there.
func (g *Gateway) endLocked(why Reason, ended ...*lease) (written *batch, err error) {
	var keys []wg.Key
	var rated []nft.Rated
	for _, l := range ended {
		keys, rated = append(keys, l.public()), append(rated, g.rated(l)...)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	if err := g.plane.remove(keys, rated); err != nil {
		return nil, err
	}
	for _, l := range ended {
		delete(g.leases, l.ID)
		delete(g.keys, l.public())
		g.cooling = append(g.cooling, l)
		g.cool[l.Client]++
		written = g.journal.add(entry{Gone: l.ID})
	}
	g.figures.Ended[why] += uint64(len(ended))
	return written, nil
}

// SetClients replaces the list of clients. The leases of those who are not in it end.
func (g *Gateway) SetClients(ctx context.Context, clients []Client) error {
	g.mu.Lock()
	g.clients = byName(clients)
	var revoked []*lease
	for _, l := range g.leases {
		if _, ok := g.clients[l.Client]; !ok {
			revoked = append(revoked, l)
		}
	}
	written, err := g.endLocked(Revoked, revoked...)
	if err != nil {
		revoked = nil // collect tries again
	}
	g.mu.Unlock()
	tellRevoked(ctx, revoked)
	if written != nil {
		err = errors.Join(err, g.journal.wait(written))
	}
	return err
}

func tellRevoked(ctx context.Context, ended []*lease) {
	for _, l := range ended {
		log.G(ctx).WithField("client", l.Client).WithField("lease", l.ID).Info("forefend gateway: a client was revoked, its lease has ended")
	}
}

// Kind is whose WireGuard it is, "kernel" or "user".
func (g *Gateway) Kind() string { return g.plane.kind() }

// IsClient tells whether a name is in the list.
func (g *Gateway) IsClient(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.clients[name]
	return ok
}
