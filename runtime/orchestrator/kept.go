package orchestrator

import (
	"cmp"
	"slices"

	"forefend.dev/forefend/runtime/workload"
)

// Bounds of what Service remembers of running containers. A container that had
// to go comes back with its shim's next report (know).
const (
	maxRunning = 4096
	maxKept    = 64 << 20 // bytes of their decisions, about
	// maxSealed is the size from which a decision is not sealed: a workload that
	// asks with a quarter of a megabyte is decided anew when the daemon is away.
	maxSealed = 256 << 10
)

// keepLocked remembers r as container id. When there are too many, or they take too
// much, those decided longest ago go, a quarter at a time so that it is rarely
// done. s.mu is held, or s is not shared yet.
func (s *Service) keepLocked(id workload.ID, r *running) {
	if old := s.running[id]; old != nil && old.decision.Facts.Run == r.decision.Facts.Run {
		s.kept -= old.size // it goes on
	} else {
		s.dropLocked(id)
	}
	r.size = r.decision.Size()
	s.running[id], s.kept = r, s.kept+r.size
	if len(s.running) <= maxRunning && s.kept <= maxKept {
		return
	}
	oldest := make([]workload.ID, 0, len(s.running))
	for other := range s.running {
		if other != id {
			oldest = append(oldest, other)
		}
	}
	slices.SortFunc(oldest, func(a, b workload.ID) int {
		x, y := s.running[a], s.running[b] // those that may never have come to be go first
		return cmp.Or(cmp.Compare(min(x.pid, 1), min(y.pid, 1)), x.decision.Time.Compare(y.decision.Time))
	})
	for _, other := range oldest {
		if len(s.running) <= maxRunning*3/4 && s.kept <= maxKept*3/4 {
			return
		}
		s.dropLocked(other)
	}
}

// dropLocked forgets a container. s.mu is held.
func (s *Service) dropLocked(id workload.ID) {
	if r := s.running[id]; r != nil {
		s.kept -= r.size
		delete(s.running, id)
		if s.monitor != nil {
			s.monitor.Forget(r.decision.Facts.Run)
		}
		if s.cfg.Responder != nil {
			s.cfg.Responder.Forget(r.decision.Facts.Run)
		}
		if s.cfg.Limiter != nil {
			s.cfg.Limiter.Forget(r.decision.Facts.Run)
		}
	}
}
