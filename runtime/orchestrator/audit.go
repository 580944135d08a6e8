package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// audit puts decisions that were found in records into the journal where they are missing: a shim made them
// without a daemon, or the daemon that made them was killed before they were on disk. Every
// container's Create thus waits for no disk, and what it was allowed is still told afterwards.
func (s *Service) audit(ctx context.Context) {
	s.mu.Lock()
	found := s.unaudited
	s.unaudited = nil
	s.mu.Unlock()
	for _, d := range found {
		s.auditOne(ctx, d)
	}
}

func (s *Service) auditOne(ctx context.Context, d api.Decision) {
	kept, err := s.journal.Decision(ctx, d.Facts.ID)
	if err == nil && covers(kept, d) {
		return
	}
	for _, c := range d.Changes { // of a daemon that was killed before it could tell; shims tell of their own
		if err != nil || kept.Facts.Run != d.Facts.Run || c.Revision <= kept.Revision || c.Author != policy.Operator {
			continue
		}
		if e := c.Event(d.Facts); !s.events.told(e) {
			s.publish(e)
		}
	}
	// A decision goes to the journal after the events of its changes: once it is there, nobody looks for them any more.
	s.journal.AppendDecision(withoutCode(d))
}

// takeDecision takes in the decision that a run without a daemon left behind, and removes its file.
func (s *Service) takeDecision(ctx context.Context, path string) error {
	var d api.Decision
	err := readSpooled(path, &d)
	if err == nil {
		err = d.Facts.ID.Validate()
	}
	if err == nil && (d.Version < 1 || d.Version > api.Version) {
		err = fmt.Errorf("%s has version %d, this daemon reads %d", path, d.Version, api.Version)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return s.setAside(path, err)
	}
	s.auditOne(ctx, d)
	return os.Remove(path)
}

// covers tells whether d, from a record, is no news beside the last decision that the journal has of its container.
func covers(kept, d api.Decision) bool {
	if kept.Facts.Run == d.Facts.Run {
		return kept.Revision >= d.Revision
	}
	return kept.Time.After(d.Time) // of the next container of this name
}
