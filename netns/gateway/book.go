package gateway

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/receipt"
)

// book has the receipts of peers' connections until their nodes have them. Its methods may be called from any goroutine.
type book struct {
	conns conns
	now   func() time.Time

	dumping sync.Mutex // held while the kernel is asked
	asked   time.Time  // when that began the last time; guarded by dumping, as is what follows
	idle    time.Time  // it is asked no sooner again

	mu     sync.Mutex
	serial uint64               // the last one given; guarded by mu, as is all that follows
	since  time.Time            // nothing was missed from then on
	owners map[netip.Addr]owner // of peers' addresses, the last one where there is none now
	nodes  map[string]*page     // by client
}

// owner is whose connections an address makes.
type owner struct {
	client string
	lease  [16]byte
}

// page is a node's.
type page struct {
	open  map[connection]*kept
	ended map[connection]*kept
	most  int       // of ended
	since time.Time // as the book's, where this node's have been too many
}

// connection is one, also among those with the same ends.
type connection struct {
	protocol     uint8
	peer, server netip.AddrPort
	began        int64 // nanoseconds
}

// kept is a receipt.
type kept struct {
	receipt.Receipt
	seen time.Time // in a dump, or when it ended
}

// How many connections that ended are kept for a node until it has asked.
const (
	endedLeast    = 1024
	endedPerLease = 128
	endedMost     = 32768
)

// lingers is for how long what has ended is remembered at least: it may still be in a dump that is under way. A connection that a dump
// does not have, and whose end was not heard of, is given up after as long.
const lingers = 10 * time.Second

// newBook makes the book of conns, whose serials come after one.
func newBook(c conns, serial uint64, now func() time.Time) *book {
	return &book{conns: c, now: now, serial: serial, since: now(), owners: make(map[netip.Addr]owner), nodes: make(map[string]*page)}
}

// own notes whose addresses are from now on.
func (b *book) own(client, lease string, leases int, addresses []netip.Prefix) {
	o := owner{client: client}
	_, _ = hex.Decode(o.lease[:], []byte(lease)) // ids are of that form
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range addresses {
		b.owners[p.Addr()] = o
	}
	n := b.nodes[client]
	if n == nil {
		n = &page{open: make(map[connection]*kept), ended: make(map[connection]*kept)}
		b.nodes[client] = n
	}
	n.most = min(max(endedPerLease*leases, endedLeast), endedMost)
}

// run hears of connections that end, until close.
func (b *book) run(missed func(error)) {
	for {
		r, err := b.conns.ends()
		switch {
		case errors.Is(err, errShut):
			return
		case err != nil:
			missed(err)
			b.mu.Lock()
			b.since = b.now()
			b.mu.Unlock()
		default:
			b.mu.Lock()
			b.endLocked(&r)
			b.mu.Unlock()
		}
	}
}

func (b *book) close() error { return b.conns.close() }

func of(r *receipt.Receipt) connection {
	return connection{r.Protocol, r.Peer, r.Server, r.Began.UnixNano()}
}

// ofLocked is whose a connection is: nil if it is no peer's.
func (b *book) ofLocked(r *receipt.Receipt) *page {
	o, ok := b.owners[r.Peer.Addr()]
	if !ok {
		return nil
	}
	r.Lease = o.lease
	return b.nodes[o.client]
}

// endLocked notes the last receipt of a connection.
func (b *book) endLocked(r *receipt.Receipt) {
	n := b.ofLocked(r)
	if n == nil {
		return
	}
	id := of(r)
	if old := n.open[id]; old != nil {
		r.Lease = old.Lease
		delete(n.open, id)
	}
	b.serial++
	r.Serial = b.serial
	n.ended[id] = &kept{*r, b.now()}
	if len(n.ended) > n.most {
		n.shed(b.now())
	}
}

// shed drops the older half of what has ended.
func (n *page) shed(now time.Time) {
	var serials []uint64
	for _, k := range n.ended {
		serials = append(serials, k.Serial)
	}
	slices.Sort(serials)
	half := serials[len(serials)/2]
	for id, k := range n.ended {
		if k.Serial < half {
			delete(n.ended, id)
		}
	}
	n.since = now
}

// mostIdle bounds how long the kernel is left alone.
const mostIdle = time.Second

// look asks the kernel, unless that was done since this call began. Between two times it is left alone for as long as the last one took: nodes that
// ask without a pause have half a processor at most.
func (b *book) look() error {
	called := b.now()
	b.dumping.Lock()
	defer b.dumping.Unlock()
	if b.asked.After(called) {
		return nil
	}
	time.Sleep(b.idle.Sub(b.now()))
	begun := b.now()
	defer func() {
		over := b.now()
		b.idle = over.Add(min(over.Sub(begun), mostIdle))
	}()
	all, err := b.conns.dump()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range all {
		b.seeLocked(&all[i], begun)
	}
	for _, n := range b.nodes {
		for id, k := range n.open {
			if begun.Sub(k.seen) > lingers { // its end was missed
				delete(n.open, id)
				n.since = begun
			}
		}
	}
	b.asked = begun
	return nil
}

// seeLocked notes a connection that a dump has.
func (b *book) seeLocked(r *receipt.Receipt, at time.Time) {
	n := b.ofLocked(r)
	if n == nil {
		return
	}
	id := of(r)
	if n.ended[id] != nil {
		return
	}
	k := n.open[id]
	if k == nil {
		k = &kept{Receipt: *r}
		n.open[id] = k
	} else if k.seen = at; k.Up == r.Up && k.Down == r.Down {
		return
	}
	k.seen, k.Up, k.Down = at, r.Up, r.Down
	b.serial++
	k.Serial = b.serial
}

// answer is a client's sheet. What it has had, by its own word, is kept no longer.
func (b *book) answer(client string, nonce receipt.Nonce, after uint64) (*receipt.Sheet, error) {
	if err := b.look(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if after > b.serial {
		return nil, fmt.Errorf("receipt %d was not given yet, the last is %d: has the gateway's state been put back to an older one?: %w", after, b.serial, errdefs.ErrInvalidArgument)
	}
	s := &receipt.Sheet{Client: client, Nonce: nonce, At: b.now(), Since: b.since, After: after, Last: b.serial}
	n := b.nodes[client]
	if n == nil {
		return s, nil
	}
	if n.since.After(s.Since) {
		s.Since = n.since
	}
	for id, k := range n.ended {
		if k.Serial <= after && s.At.Sub(k.seen) > lingers {
			delete(n.ended, id)
		}
	}
	some, more := n.after(after)
	s.Receipts = make([]receipt.Receipt, 0, len(some))
	for _, k := range some {
		s.Receipts = append(s.Receipts, k.Receipt)
	}
	if more {
		s.Last, s.More = s.Receipts[len(s.Receipts)-1].Serial, true
	}
	return s, nil
}

// after are the first receipts after a serial, as many as a sheet has, and whether there are more. A node with very many connections must not have
// all of them sorted each time: ends of connections wait meanwhile, of all nodes.
func (n *page) after(serial uint64) (some []*kept, more bool) {
	const most = receipt.MaxReceipts
	cut := func() {
		slices.SortFunc(some, func(a, b *kept) int { return cmp.Compare(a.Serial, b.Serial) })
		if len(some) > most {
			some, more = some[:most], true
		}
	}
	for _, from := range []map[connection]*kept{n.open, n.ended} {
		for _, k := range from {
			if k.Serial <= serial || more && k.Serial > some[most-1].Serial {
				continue
			}
			if some = append(some, k); len(some) == 2*most {
				cut()
			}
		}
	}
	cut()
	return some, more
}
