package history

import (
	"slices"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// maxDestinations bounds the destinations remembered for one key; the oldest go.
const maxDestinations = 16

// summary is what is remembered of the runs of one key. A node has tens of
// thousands: they lie packed in a shelf.
type summary struct {
	key  workload.Key
	name string // for people; empty when no run had this key as its most exact
	last int64  // when the newest run ended, or was last heard of; Unix nanoseconds

	runs       uint32 // that ended
	neverWrote uint32 // of them, those known not to have written to their root filesystem
	wrote      uint32
	measured   uint32  // of them, those with usage
	lasted     float32 // seconds: the longest of the measured ones; 0: not known, or none
	next       uint8   // of ring: the oldest, once it is full
	ring       []peak  // the newest measured runs
	older      []peak  // the highest of each full ring before, the newest last
	calls      calls   // only at levels that name code (keepsCalls); serving and stopping too
	serving    calls   // of runs that served for long enough to tell: what they did meanwhile
	stopping   calls   // of those, the ones that were told to end: what they did then

	destinations []string // oldest first
	ways         ways     // by which its requests left
}

// peak is one run's usage, by kind.
type peak [kinds]float32

func peakOf(u *workload.Usage) peak {
	return peak{
		memory: float32(u.MemoryPeak), cpu: float32(u.CPUPeak), pids: float32(u.PIDsPeak), received: float32(u.Received), sent: float32(u.Sent),
	}
}

func (p peak) empty() bool { return !(max(p[memory], p[cpu], p[pids]) > 0) }

// highest is the highest of each kind.
func (p peak) highest(q peak) peak {
	for kind := range p {
		p[kind] = max(p[kind], q[kind])
	}
	return p
}

// keepsCalls says at which levels system calls and destinations are kept: those that
// name code. What a repository, a user or a node did says nothing about one program.
func keepsCalls(l workload.Level) bool { return l <= workload.LevelExecutable }

// add counts a run that ended.
func (s *summary) add(r *run) {
	s.runs++
	s.last = max(s.last, r.end.UnixNano())
	switch r.obs.RootfsWrites {
	case workload.No:
		s.neverWrote++
	case workload.Yes:
		s.wrote++
	}
	if p := peakOf(&r.obs.Usage); !p.empty() {
		s.measured++
		s.lasted = max(s.lasted, r.lasted())
		s.push(p)
	}
	if keepsCalls(s.key.Level) {
		if r.obs.Watched {
			s.calls.add(r.seen)
			s.byPhase(r, (*calls).add)
		}
		s.contacted(r.obs.Destinations)
		s.ways.add(r.obs.Ways)
	}
}

// amend adds what became known of a run after it was counted.
func (s *summary) amend(r *run) {
	s.last = max(s.last, r.end.UnixNano())
	if p := peakOf(&r.obs.Usage); !p.empty() && len(s.ring) > 0 {
		newest := &s.ring[(int(s.next)+len(s.ring)-1)%len(s.ring)]
		*newest = newest.highest(p)
	}
	if r.obs.RootfsWrites == workload.Yes && s.wrote == 0 {
		s.wrote, s.neverWrote = 1, min(s.neverWrote, s.runs-1)
	}
	if keepsCalls(s.key.Level) {
		if r.obs.Watched {
			s.calls.amend(r.seen)
			s.byPhase(r, (*calls).amend)
		}
		s.contacted(r.obs.Destinations)
	}
}

// byPhase takes in what a run did in the phases that it came to.
func (s *summary) byPhase(r *run, take func(*calls, seen)) {
	if r.serving != nil {
		take(&s.serving, *r.serving)
	}
	if r.stopping != nil {
		take(&s.stopping, *r.stopping)
	}
}

func (s *summary) push(p peak) {
	if len(s.ring) < estimate.Window {
		s.ring = append(s.ring, p)
		return
	}
	if s.next == 0 { // a full ring is about to be overwritten
		s.older = append(s.older[max(0, len(s.older)-estimate.Older+1):], s.highest())
	}
	s.ring[s.next] = p
	s.next = uint8((int(s.next) + 1) % estimate.Window)
}

// highest is the highest of each kind in the ring.
func (s *summary) highest() (top peak) {
	for _, p := range s.ring {
		top = top.highest(p)
	}
	return top
}

// contacted remembers destinations in a stable order, the most used last.
func (s *summary) contacted(destinations map[string]uint64) {
	if len(destinations) == 0 {
		return
	}
	for _, d := range busiest(destinations, maxDestinations) {
		if i := slices.Index(s.destinations, d); i >= 0 {
			s.destinations = slices.Delete(s.destinations, i, i+1)
		}
		s.destinations = append(s.destinations, d)
	}
	if extra := len(s.destinations) - maxDestinations; extra > 0 {
		s.destinations = slices.Delete(s.destinations, 0, extra)
	}
}

// rootfsWrites is No only when every run is known not to have written.
func (s *summary) rootfsWrites() workload.Tristate {
	switch {
	case s.wrote > 0:
		return workload.Yes
	case s.runs > 0 && s.neverWrote == s.runs:
		return workload.No
	}
	return workload.Unknown
}
