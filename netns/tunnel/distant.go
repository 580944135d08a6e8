package tunnel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// distant is the gateway of one tunnel, with the peers that this node has of it.
type distant struct {
	tunnel  string
	gateway Gateway
	strong  bool // peers have a pre-shared key
	client  *provision.Client
	now     func() time.Time
	audit   audit
	old     *distant // what it was configured as before, whose peers are in use still; it is kept up with this one

	mu      sync.Mutex
	busy    bool             // guarded by mu, as is all that follows
	peers   map[string]*peer // by id: all that are held
	ready   []*peer          // of them, in reserve
	retired bool             // what is given back is not kept in reserve
	again   time.Time        // when it is asked again after a failure; zero: any time
	trouble string           // what is wrong; "": nothing
}

// again is how long after a failure a gateway is asked again beside those who wait.
const askAgain = 3 * time.Second

// upkeepDeadline bounds one round of upkeep.
const upkeepDeadline = 15 * time.Second

// take is a peer for a device: the one with an id where the gateway has that still, with another key, one in reserve, or a new one.
func (f *distant) take(ctx context.Context, id string) (*peer, error) {
	if id != "" {
		one, err := f.revive(ctx, id)
		if err == nil || !gone(err) {
			return one, f.tell(err)
		}
	}
	f.mu.Lock()
	for len(f.ready) > 0 {
		one := f.ready[0]
		f.ready = f.ready[1:]
		if !one.lost() && f.now().Before(one.ends()) {
			f.mu.Unlock()
			return one, nil
		}
		delete(f.peers, one.id)
	}
	f.mu.Unlock()
	one, err := f.allocate(ctx)
	return one, f.tell(err)
}

// tell notes what is wrong with the gateway, or that nothing is.
func (f *distant) tell(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble, f.again = "", time.Time{}
	if errdefs.IsPermissionDenied(err) { // who is no client any more has no leases; who uses one notices
		for _, one := range f.ready {
			delete(f.peers, one.id)
		}
		f.ready = nil
	}
	if err != nil {
		f.trouble, f.again = err.Error(), f.now().Add(askAgain)
	}
	return err
}

// allocate asks for a new peer.
func (f *distant) allocate(ctx context.Context) (*peer, error) {
	key := newPrivate()
	g, err := f.client.Allocate(ctx, provision.Allocate{PublicKey: key.Public().Text(), Preshared: f.strong, Class: f.gateway.Class})
	if err != nil {
		return nil, err
	}
	return f.hold(g, key), nil
}

// revive has a lease of an earlier process go on with another key: the old one went with that process.
func (f *distant) revive(ctx context.Context, id string) (*peer, error) {
	key := newPrivate()
	g, err := f.client.Rekey(ctx, id, provision.Rekey{PublicKey: key.Public().Text(), Preshared: f.strong})
	if err != nil {
		return nil, err
	}
	return f.hold(g, key), nil
}

// hold notes what was granted.
func (f *distant) hold(g *provision.Granted, key wg.Key) *peer {
	one := &peer{id: g.Lease.ID, private: key, server: g.Server, lease: g.Lease, until: f.now().Add(g.Lease.Term()), keyed: f.now(), slot: -1}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers[g.Lease.ID] = one
	return one
}

// place notes which slot a peer is in.
func (f *distant) place(one *peer, slot int) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.slot = slot
}

// in is the id of the lease that is in use in a slot, "" for none.
func (f *distant) in(slot int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, one := range f.peers {
		one.mu.Lock()
		found := one.slot == slot && one.device != nil
		one.mu.Unlock()
		if found {
			return id
		}
	}
	if f.old != nil {
		return f.old.in(slot)
	}
	return ""
}

// giveBack ends a peer's lease, for all the gateway knows; it does not wait. A key that was a device's is used for no other one.
func (f *distant) giveBack(ctx context.Context, work *sync.WaitGroup, one *peer) {
	f.mu.Lock()
	delete(f.peers, one.id)
	f.mu.Unlock()
	if one.lost() {
		return
	}
	work.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), upkeepDeadline)
		defer cancel()
		_ = f.client.Release(ctx, one.id) // else it ends by itself
	})
}

// retire gives back what is in reserve, and waits.
func (f *distant) retire(ctx context.Context) {
	f.mu.Lock()
	f.retired = true
	spare := f.ready
	f.ready = nil
	for _, one := range spare {
		delete(f.peers, one.id)
	}
	f.mu.Unlock()
	for _, one := range spare {
		_ = f.client.Release(ctx, one.id) // else it ends by itself
	}
}

// begin takes the one turn that there is for upkeep.
func (f *distant) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy || f.now().Before(f.again) {
		return false
	}
	f.busy = true
	return true
}

func (f *distant) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = false
}

// upkeep renews leases, changes keys that are old, and fills the reserve.
func (f *distant) upkeep(ctx context.Context, draining bool) error {
	ctx, cancel := context.WithTimeout(ctx, upkeepDeadline)
	defer cancel()
	if f.old != nil {
		if err := f.old.upkeep(ctx, true); err != nil {
			return err
		}
	}
	f.expire()
	asked, err := f.renew(ctx)
	if err == nil {
		var changed bool
		changed, err = f.rekey(ctx)
		asked = asked || changed
	}
	for err == nil && !draining && f.short() {
		asked = true
		var one *peer
		if one, err = f.allocate(ctx); err == nil {
			f.mu.Lock()
			f.ready = append(f.ready, one)
			f.mu.Unlock()
		}
	}
	if !asked {
		return nil
	}
	return f.tell(err)
}

// short tells whether there are fewer in reserve than there are to be.
func (f *distant) short() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.retired && len(f.ready) < f.gateway.Ready
}

// renew asks for another term, where a third of one has passed.
func (f *distant) renew(ctx context.Context) (asked bool, err error) {
	for batch := range slices.Chunk(f.due(), provision.MaxRenewed) {
		asked = true
		begun := f.now()
		r, err := f.client.Renew(ctx, batch)
		if err != nil {
			return true, err
		}
		for _, id := range batch {
			f.mu.Lock()
			one := f.peers[id]
			f.mu.Unlock()
			if one == nil {
				continue
			}
			if slices.Contains(r.Gone, id) {
				f.lose(one)
			} else {
				err = errors.Join(err, one.extend(begun.Add(time.Duration(r.Seconds)*time.Second), r.Server, resolveAny(ctx)))
			}
		}
		if err != nil {
			return true, err
		}
	}
	return asked, nil
}

// due are the leases of which a third has passed.
func (f *distant) due() (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, one := range f.peers {
		if _, lease := one.state(); one.ends().Sub(f.now()) < lease.Term()-soon(lease.Term()) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// expire loses what could not be renewed in time.
func (f *distant) expire() {
	f.mu.Lock()
	var late []*peer
	for _, one := range f.peers {
		if f.now().After(one.ends()) {
			late = append(late, one)
		}
	}
	f.mu.Unlock()
	for _, one := range late {
		f.lose(one)
	}
}

// lose notes that the gateway has ended a lease: its device ends, and who asks gets another.
func (f *distant) lose(one *peer) {
	one.mu.Lock()
	one.isLost = true
	one.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.peers, one.id)
	f.ready = slices.DeleteFunc(f.ready, func(o *peer) bool { return o == one })
}

// rekey changes the keys that are old of what is in use. What is in reserve is used with a fresh key anyway, by its age.
func (f *distant) rekey(ctx context.Context) (asked bool, err error) {
	if f.gateway.Rekey == 0 {
		return false, nil
	}
	f.mu.Lock()
	var old []*peer
	for _, one := range f.peers {
		one.mu.Lock()
		if one.device != nil && f.now().Sub(one.keyed) >= f.gateway.Rekey {
			old = append(old, one)
		}
		one.mu.Unlock()
	}
	f.mu.Unlock()
	for _, one := range old {
		asked = true
		key := newPrivate()
		g, err := f.client.Rekey(ctx, one.id, provision.Rekey{PublicKey: key.Public().Text(), Preshared: f.strong})
		switch {
		case gone(err):
			f.lose(one)
		case err != nil:
			return true, err
		default:
			if err := one.change(g, key, f.now(), resolveAny(ctx)); err != nil {
				return true, fmt.Errorf("lease %s: %w", one.id, err)
			}
		}
	}
	return asked, nil
}
