package history

import (
	"slices"
	"time"
	"unique"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// maxDestinations bounds the destinations remembered for one key; the oldest go.
const maxDestinations = 16

// summary is what is remembered of the runs of one key. A node has tens of
// thousands: every byte counts.
type summary struct {
	key  workload.Key
	name string // for people; empty when no run had this key as its most exact
	last int64  // when the newest run ended, or was last heard of; Unix nanoseconds

	runs       uint32 // that ended
	neverWrote uint32 // of them, those known not to have written to their root filesystem
	wrote      uint32
	measured   uint32 // of them, those with usage
	next       uint8  // of ring: the oldest, once it is full
	ring       []peak // the newest measured runs
	calls      calls  // only at levels that name code (keepsCalls)

	destinations []unique.Handle[string] // oldest first
}

// sizeOf is about how many bytes s takes, its place in the model included.
func (s *summary) sizeOf() int {
	const fixed, destination = 400, 96 // a destination is shared by all summaries that know it
	return fixed + len(s.name) + 16*cap(s.ring) + 4*(cap(s.calls.many)+cap(s.calls.once)) + destination*cap(s.destinations)
}

// peak is one run's usage.
type peak struct {
	memory, cpu, pids float32
	end               uint32 // Unix seconds
}

func peakOf(o *workload.Observation, end time.Time) peak {
	return peak{float32(o.Usage.MemoryPeak), float32(o.Usage.CPUPeak), float32(o.Usage.PIDsPeak), seconds(end)}
}

func (p peak) empty() bool { return p.memory <= 0 && p.cpu <= 0 && p.pids <= 0 }

func seconds(t time.Time) uint32 { return uint32(max(t.Unix(), 0)) }

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
	if p := peakOf(r.obs, r.end); !p.empty() {
		s.measured++
		s.push(p)
	}
	if keepsCalls(s.key.Level) {
		if r.obs.Watched {
			s.calls.add(r.seen)
		}
		s.contacted(r.obs.Destinations)
	}
}

// amend adds what became known of a run after it was counted.
func (s *summary) amend(r *run) {
	s.last = max(s.last, r.end.UnixNano())
	if p := peakOf(r.obs, r.end); !p.empty() && len(s.ring) > 0 {
		newest := &s.ring[(int(s.next)+len(s.ring)-1)%len(s.ring)]
		newest.memory = max(newest.memory, p.memory)
		newest.cpu = max(newest.cpu, p.cpu)
		newest.pids = max(newest.pids, p.pids)
	}
	if r.obs.RootfsWrites == workload.Yes && s.wrote == 0 {
		s.wrote, s.neverWrote = 1, min(s.neverWrote, s.runs-1)
	}
	if keepsCalls(s.key.Level) {
		if r.obs.Watched {
			s.calls.amend(r.seen)
		}
		s.contacted(r.obs.Destinations)
	}
}

func (s *summary) push(p peak) {
	if len(s.ring) < estimate.Window {
		if len(s.ring) == cap(s.ring) {
			s.ring = slices.Grow(s.ring, min(max(1, len(s.ring)), estimate.Window-len(s.ring)))
		}
		s.ring = append(s.ring, p)
		return
	}
	s.ring[s.next] = p
	s.next = uint8((int(s.next) + 1) % estimate.Window)
}

// contacted remembers destinations in a stable order, the most used last.
func (s *summary) contacted(destinations map[string]uint64) {
	if len(destinations) == 0 {
		return
	}
	for _, d := range busiest(destinations, maxDestinations) {
		h := unique.Make(d)
		if i := slices.Index(s.destinations, h); i >= 0 {
			s.destinations = slices.Delete(s.destinations, i, i+1)
		}
		s.destinations = append(s.destinations, h)
	}
	if extra := len(s.destinations) - maxDestinations; extra > 0 {
		s.destinations = slices.Clip(slices.Delete(s.destinations, 0, extra))
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
