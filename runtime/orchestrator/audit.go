package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// audit puts decisions that were found in records into the journal where they are missing: a shim made them
// without a daemon, or the daemon that made them was killed before they were on disk. Every
// container's Create thus waits for no disk, and what it was allowed is still told afterwards.
func (s *Service) audit(ctx context.Context) {
	s.auditing.Lock()
	defer s.auditing.Unlock()
	s.mu.Lock()
	found := s.unaudited
	s.unaudited = nil
	s.mu.Unlock()
	for _, d := range found {
		s.auditOne(ctx, d)
	}
}

// enter puts a decision into the journal, unless a later one is in force by now, which is put there by who knows of it. What was in force
// before, and what records had of its container, goes first: behind it, nobody would look for the events of those changes any more. tell,
// which may be nil, tells of the decision in between.
func (s *Service) enter(ctx context.Context, before, d api.Decision, tell func()) {
	s.auditing.Lock()
	defer s.auditing.Unlock()
	var found []api.Decision
	s.mu.Lock()
	r := s.running[d.Facts.ID]
	overtaken := r != nil && supersedes(r.decision, d)
	if r == nil || r.decision.Facts.Run != before.Facts.Run || r.entered < before.Revision {
		found = append(found, before) // else this daemon has put it there, and need not read it back
	}
	s.unaudited = slices.DeleteFunc(s.unaudited, func(old api.Decision) bool {
		mine := old.Facts.ID == d.Facts.ID
		if mine {
			found = append(found, old)
		}
		return mine
	})
	s.mu.Unlock()
	for _, old := range found {
		s.auditOne(ctx, old)
	}
	if tell != nil {
		tell()
	}
	if overtaken {
		return
	}
	s.journal.AppendDecision(d) // a decision goes there after the events of its changes: see auditOne
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[d.Facts.ID]; r != nil && r.decision.Facts.Run == d.Facts.Run {
		r.entered = d.Revision
	}
}

// catchUp takes over what shims have put in force for an earlier daemon, which was killed before it had their answer, after this one
// had read the records: nobody else tells of that.
func (s *Service) catchUp(ctx context.Context) {
	for r, err := range s.cfg.Containers.List {
		if err != nil || r.Decision == nil || !r.Alive() {
			continue
		}
		s.notice(ctx, *r.Decision)
	}
}

// notice takes over what a running container's shim has in force, where that is not known. Nobody else tells of a change whose request had been
// given up by the time the shim had made it.
func (s *Service) notice(ctx context.Context, d api.Decision) {
	s.mu.Lock()
	known := s.running[d.Facts.ID]
	news := known != nil && supersedes(d, known.decision)
	s.mu.Unlock()
	if news {
		s.changed(ctx, d)
	}
}

// auditOne is audit for one decision, with s.auditing held.
func (s *Service) auditOne(ctx context.Context, d api.Decision) {
	kept, err := s.journal.Decision(ctx, d.Facts.ID)
	if err == nil && covers(kept, d) {
		return
	}
	for _, c := range d.Changes { // of a daemon that was killed before it could tell
		if err != nil || kept.Facts.Run != d.Facts.Run || c.Revision <= kept.Revision || byShim(c) {
			continue
		}
		if e := c.Event(d.Facts); !s.events.told(e) {
			s.publish(e)
		}
	}
	// A decision goes to the journal after the events of its changes: once it is there, nobody looks for them any more.
	s.journal.AppendDecision(withoutCode(d))
}

// byShim reports whether a shim has made a change by itself: for a client of containerd, or by raising a limit ahead of need. It tells of these
// whatever becomes of daemons. All others are a daemon's, also those that a risk, a forecast or an application has asked for.
func byShim(c api.Change) bool {
	raised := slices.ContainsFunc(c.Results, func(r api.Result) bool { return r.Lever == api.SourceAirbag })
	return raised || c.Author == policy.Request && c.Source == rewrite.SourceUpdate
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
	s.auditing.Lock()
	s.auditOne(ctx, d)
	s.auditing.Unlock()
	return os.Remove(path)
}

// covers tells whether d, from a record, is no news beside the last decision that the journal has of its container.
func covers(kept, d api.Decision) bool {
	if kept.Facts.Run == d.Facts.Run {
		return !supersedes(d, kept)
	}
	return kept.Time.After(d.Time) // of the next container of this name
}
