package shim

import (
	"maps"
	"strings"
	"sync"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// passages counts the contacts of one run that a gate refused, and those with listed addresses that it let pass: a bounded
// number, by destination.
type passages struct {
	mu      sync.Mutex
	refused map[string]uint64 // guarded by mu
	listed  map[string]uint64 // guarded by mu
	named   map[string]uint64 // by name, as the interceptor saw them; guarded by mu
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

// name adds contacts by name, by an agent's word: what is no name of a host and a port, or too long for an observation, is left out.
func (p *passages) name(told map[string]uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, n := range told {
		protocol, name, _ := strings.Cut(d, "/")
		_, port, ok := policy.ParseEgressName(name)
		if _, known := p.named[d]; !ok || port == 0 || protocol != "tcp" || len(d) > maxNamed || !known && len(p.named) >= workload.MaxDestinations/2 {
			continue
		}
		if p.named == nil {
			p.named = make(map[string]uint64)
		}
		p.named[d] += n
	}
}

// maxNamed is how long a destination by name is at most, in bytes: that of any in an observation.
const maxNamed = 128

// describe adds what was seen to an observation. A listed destination is one whether or not its connect was watched.
func (p *passages) describe(o *workload.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.Refused, o.RefusedLost = maps.Clone(p.refused), p.lost
	for _, seen := range []map[string]uint64{p.listed, p.named} {
		for d, n := range seen {
			if _, known := o.Destinations[d]; known || len(o.Destinations) >= workload.MaxDestinations {
				continue
			}
			if o.Destinations == nil {
				o.Destinations = make(map[string]uint64)
			}
			o.Destinations[d] = n
		}
	}
}
