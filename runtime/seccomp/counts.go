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
	// Serving and Stopping are the part of Allowed that the container's own processes made in these phases, 32-bit calls
	// excepted; nil before.
	Serving, Stopping map[string]uint64
	// Destinations holds connections per "tcp/192.0.2.1:443" or "udp/[2001:db8::1]:53"
	// that were asked for and allowed, whether or not they succeeded.
	Destinations map[string]uint64
	// DestinationsLost counts connections whose destination was not recorded,
	// because too many different ones or too many a second came, or it could not be read.
	DestinationsLost uint64
	// Programs holds executions that were allowed, by the path that was asked for, whether or not they succeeded: a shell
	// that searches its PATH asks for several.
	Programs map[string]uint64
	// ProgramsLost counts executions whose path was not recorded, for the same reasons.
	ProgramsLost uint64
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

// collect adds the counts by name. A kill counts as a denial. A nil tally has none.
func (t *tally) collect(numbers numbering, allowed, denied map[string]uint64) {
	if t == nil {
		return
	}
	for nr := range maxTallied {
		name, ok := numbers.name(nr)
		if !ok {
			continue
		}
		if n := t.allowed[nr].Load(); n > 0 {
			allowed[name] += n
		}
		if n := t.denied[nr].Load() + t.killed[nr].Load(); n > 0 {
			denied[name] += n
		}
	}
}

// lazyTally is a tally that is made by the first call that it counts.
type lazyTally struct{ made atomic.Pointer[tally] }

// load returns nil before the first get.
func (l *lazyTally) load() *tally { return l.made.Load() }

func (l *lazyTally) get() *tally {
	if t := l.made.Load(); t != nil {
		return t
	}
	l.made.CompareAndSwap(nil, new(tally))
	return l.made.Load()
}

// tagged counts destinations or programs, bounded in number.
type tagged struct {
	mu     sync.Mutex // guards all below
	counts map[string]uint64
	lost   uint64
}

// maxTagged bounds the distinct destinations, and programs, remembered per container.
const maxTagged = 256

// add counts one and reports whether it is the first with that key.
func (d *tagged) add(key string) (first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.counts[key]
	if key == "" || !known && len(d.counts) >= maxTagged {
		d.lost++
		return false
	}
	if d.counts == nil {
		d.counts = make(map[string]uint64)
	}
	d.counts[key]++
	return !known
}

func (d *tagged) collect() (counts map[string]uint64, lost uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if counts = maps.Clone(d.counts); counts == nil {
		counts = map[string]uint64{}
	}
	return counts, d.lost
}
