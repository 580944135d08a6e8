package rules

import (
	"context"
	"sync"
	"time"

	"forefend.dev/forefend/netns/pdp"
)

// Current is the rules in force. Each set of rules has an epoch: a number that only grows, also from one daemon to the next, since it
// begins with the time.
type Current struct {
	mu      sync.Mutex
	set     *pdp.Set      // nil: there were never rules in order; guarded by mu
	epoch   uint64        // guarded by mu
	changed chan struct{} // closed with the next epoch; guarded by mu
}

// NewCurrent has no rules yet, and nothing may leave.
func NewCurrent() *Current {
	return &Current{epoch: uint64(time.Now().UnixMilli()), changed: make(chan struct{})}
}

// Take puts rules in force, with the next epoch, which it returns. nil: none, and nothing may leave.
func (c *Current) Take(set *pdp.Set) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set = set
	c.epoch = max(c.epoch+1, uint64(time.Now().UnixMilli()))
	close(c.changed)
	c.changed = make(chan struct{})
	return c.epoch
}

// Rules returns the rules in force and their epoch; nil: there are none that are in order.
func (c *Current) Rules() (*pdp.Set, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set, c.epoch
}

// Watch returns the epoch, and what is closed with the next.
func (c *Current) Watch() (epoch uint64, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch, c.changed
}

// Await returns the epoch once it is not after any more, or ctx ends.
func (c *Current) Await(ctx context.Context, after uint64) uint64 {
	for {
		epoch, changed := c.Watch()
		if epoch != after {
			return epoch
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return epoch
		}
	}
}
