package seccomp

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Counts is what a container's supervised calls added up to since Attach.
type Counts struct {
	// Allowed and Denied hold calls per name that got that answer. A call that was
	// interrupted before its answer counts when it is made again; one that a signal
	// interrupts in the very moment of its answer counts twice, since the kernel
	// tells us that it was answered.
	Allowed, Denied map[string]uint64
	// Destinations holds connections per "tcp/192.0.2.1:443" or "udp/[2001:db8::1]:53"
	// that were asked for and allowed, whether or not they succeeded.
	Destinations map[string]uint64
	// DestinationsLost counts connections whose destination was not recorded,
	// because too many different ones or too many a second came, or it could not be read.
	DestinationsLost uint64
	// EventsDropped counts events for which there was no room.
	EventsDropped uint64
	// Refused counts processes whose listener came while there was no room for it.
	Refused uint64
}

// tally counts calls per number of one architecture, from any goroutine.
type tally struct {
	allowed, denied, killed [maxTallied]atomic.Uint64
	seen                    [3][maxTallied]atomic.Bool // per verdict Kill, Deny, Watch: its event was sent
}

// maxTallied bounds the numbers counted; Linux has given fewer than 500.
const maxTallied = 512

func (t *tally) add(nr int32, v Verdict) uint64 {
	if nr < 0 || nr >= maxTallied {
		return 0
	}
	return t.counter(v)[nr].Add(1)
}

func (t *tally) counter(v Verdict) *[maxTallied]atomic.Uint64 {
	switch v {
	case Kill:
		return &t.killed
	case Deny:
		return &t.denied
	}
	return &t.allowed
}

// collect adds the counts to c by name. A kill counts as a denial.
func (t *tally) collect(numbers numbering, c *Counts) {
	for nr := range maxTallied {
		name, ok := numbers.name(nr)
		if !ok {
			continue
		}
		if n := t.allowed[nr].Load(); n > 0 {
			c.Allowed[name] += n
		}
		if n := t.denied[nr].Load() + t.killed[nr].Load(); n > 0 {
			c.Denied[name] += n
		}
	}
}

// destinations counts connections, bounded in number.
type destinations struct {
	mu     sync.Mutex // guards all below
	counts map[string]uint64
	lost   uint64
}

// maxDestinations bounds the distinct destinations remembered per container.
const maxDestinations = 256

func (d *destinations) add(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.counts[key]; key == "" || !known && len(d.counts) >= maxDestinations {
		d.lost++
		return
	}
	if d.counts == nil {
		d.counts = make(map[string]uint64)
	}
	d.counts[key]++
}

func (d *destinations) collect(c *Counts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Destinations, c.DestinationsLost = maps.Clone(d.counts), d.lost
	if c.Destinations == nil {
		c.Destinations = map[string]uint64{}
	}
}
