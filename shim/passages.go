package shim

import (
	"maps"
	"sync"

	"forefend.dev/forefend/runtime/workload"
)

// passages counts the contacts of one run that a gate refused, and those with listed addresses that it let pass: a bounded
// number, by destination.
type passages struct {
	mu      sync.Mutex
	refused map[string]uint64 // guarded by mu
	listed  map[string]uint64 // guarded by mu
	lost    uint64            // of refused; guarded by mu
}

func (p *passages) add(s Passage) {
	n := max(s.Packets, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := &p.listed
	if s.Refused {
		counts = &p.refused
	}
	if _, known := (*counts)[s.Destination]; !known && len(*counts) >= workload.MaxDestinations {
		if s.Refused {
			p.lost += n
		}
		return
	}
	if *counts == nil {
		*counts = make(map[string]uint64)
	}
	(*counts)[s.Destination] += n
}

// describe adds what was seen to an observation. A listed destination is one whether or not its connect was watched.
func (p *passages) describe(o *workload.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.Refused, o.RefusedLost = maps.Clone(p.refused), p.lost
	for d, n := range p.listed {
		if _, known := o.Destinations[d]; known || len(o.Destinations) >= workload.MaxDestinations {
			continue
		}
		if o.Destinations == nil {
			o.Destinations = make(map[string]uint64)
		}
		o.Destinations[d] = n
	}
}
