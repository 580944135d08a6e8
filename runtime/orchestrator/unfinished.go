package orchestrator

import (
	"context"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// unfinished is a History that can be told that the end of a run will never
// come: its shim died.
type unfinished interface {
	OpenRuns() []string
	Abandon(ctx context.Context, run string) error
}

// abandon ends the runs that have no container any more, after the time in
// which their final observation could still come. absent is when each was first
// missed.
func (s *Service) abandon(ctx context.Context, absent map[string]time.Time) {
	h, ok := s.history.(unfinished)
	if !ok {
		return
	}
	live := make(map[string]bool)
	s.mu.Lock()
	for _, r := range s.running {
		live[r.decision.Facts.Run] = true
	}
	s.mu.Unlock()
	open := make(map[string]bool)
	now := s.cfg.Now()
	for _, run := range h.OpenRuns() {
		if live[run] {
			continue
		}
		open[run] = true
		if _, known := absent[run]; !known {
			absent[run] = now
		}
		if now.Sub(absent[run]) >= s.cfg.Collect {
			logError(ctx, h.Abandon(ctx, run), "run without an end")
		}
	}
	for run := range absent {
		if !open[run] {
			delete(absent, run)
		}
	}
}

// lost ends a run whose shim died: nobody will report its end.
func (s *Service) lost(ctx context.Context, id workload.ID, run string) {
	s.mu.Lock()
	if r := s.running[id]; r != nil && r.decision.Facts.Run == run {
		s.dropLocked(id)
	}
	s.mu.Unlock()
	if h, ok := s.history.(unfinished); ok && run != "" {
		logError(ctx, h.Abandon(ctx, run), "run that ended with its shim")
	}
}
