package main

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"forefend.dev/forefend/agent"
	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// Bounds of what is told of contacts: how many of a container are told apart, and how long a name may be to be told.
const (
	mostContacts = 256
	longestName  = 120
)

// tellEvery is how often contacts are told at most, tellWithin how long that may take.
const (
	tellEvery  = 100 * time.Millisecond
	tellWithin = 2 * time.Second
)

// contacts counts the hosts, by name and port, to which connections were let out, and tells the shim, which sees
// addresses only.
type contacts struct {
	asker   agent.Asker
	wake    chan struct{} // something is to be told
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	known map[string]map[string]bool   // by container; guarded by mu
	fresh map[string]map[string]uint64 // likewise, not told yet; guarded by mu
}

func newContacts(asker agent.Asker) *contacts {
	c := &contacts{asker: asker, wake: make(chan struct{}, 1), known: make(map[string]map[string]bool), fresh: make(map[string]map[string]uint64)}
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.running.Go(func() { c.run(ctx) })
	return c
}

func (c *contacts) close() {
	c.stop()
	c.running.Wait()
}

// note takes down a connection that was let out and made. A host that is only claimed is none.
func (c *contacts) note(x *flow.Context) {
	if x.Host == "" || x.HostProof == flow.Claimed || x.Protocol == flow.DNS || len(x.Host) > longestName {
		return
	}
	if _, err := netip.ParseAddr(x.Host); err == nil {
		return // seen by its address
	}
	key := "tcp/" + net.JoinHostPort(x.Host, strconv.Itoa(int(x.Destination.Port())))
	c.mu.Lock()
	defer c.mu.Unlock()
	known, fresh := c.known[x.Container], c.fresh[x.Container]
	if !known[key] {
		if len(known) >= mostContacts {
			return
		}
		if known == nil {
			known = make(map[string]bool)
			c.known[x.Container] = known
		}
		known[key] = true
	}
	if fresh == nil {
		fresh = make(map[string]uint64)
		c.fresh[x.Container] = fresh
	}
	fresh[key]++
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// only forgets containers that are not among these: those of a pod come and go.
func (c *contacts) only(d *document.Document) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.known, func(id string, _ map[string]bool) bool {
		return id != "" && id != d.Base.Container && !slices.ContainsFunc(d.Containers, func(is document.Container) bool { return is.Base.Container == id })
	})
}

// run tells until the end.
func (c *contacts) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		told := c.fresh
		c.fresh = make(map[string]map[string]uint64)
		c.mu.Unlock()
		within, cancel := context.WithTimeout(ctx, tellWithin)
		for container, names := range told {
			_ = ask(within, c.asker, api.AskContacts, egress.Contacts{Container: container, Names: names}, new(struct{})) // what is lost is learned in another run
		}
		cancel()
		select {
		case <-time.After(tellEvery):
		case <-ctx.Done():
			return
		}
	}
}
