package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

const (
	upkeepEvery  = 5 * time.Second // for the spool: a directory, mostly empty
	maxSpooled   = 1 << 20         // bytes of one spooled file
	orphanLeave  = time.Minute     // Config.Collect when not set: containerd's own delete process comes first
	spoolAtOnce  = 1000            // spooled observations taken in per round
	damagedSpool = ".damaged"      // suffix of a spooled file that could not be read
)

// Run does the service's work in the background until ctx ends: it seals
// policies for the time without a daemon, takes in spooled observations and
// collects what crashed shims left. Once it has returned nobody waits for events.
func (s *Service) Run(ctx context.Context) error {
	defer s.events.end()
	if s.cfg.responds() {
		var beside sync.WaitGroup
		defer beside.Wait()
		beside.Go(func() { s.respond(ctx) })
	}
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	s.upkeep(ctx)
	rounds := max(1, int(s.cfg.Collect/upkeepEvery))
	for round := 1; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case d := <-s.seal:
			logError(ctx, s.sealPolicy(d), "sealed policy not written")
		case <-tick.C:
			logError(ctx, s.takeSpool(ctx), "spooled observations")
			s.audit(ctx)
			if time.Duration(round)*upkeepEvery <= adaptTime+upkeepEvery { // longer no shim is at it
				s.catchUp(ctx)
			}
			if round%rounds == 0 { // every record is read
				s.collect(ctx)
				s.abandon(ctx, s.absent)
			}
		}
	}
}

// upkeep is one round of everything Run does by the clock.
func (s *Service) upkeep(ctx context.Context) {
	logError(ctx, s.takeSpool(ctx), "spooled observations")
	s.audit(ctx)
	s.collect(ctx)
	s.abandon(ctx, s.absent)
}

// takeSpool records the final observations shims left while no daemon ran.
func (s *Service) takeSpool(ctx context.Context) error {
	entries, err := os.ReadDir(s.cfg.SpoolDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	var first error // the rest would only say it again
	taken := 0
	for _, e := range entries {
		take := s.takeSpooled
		if strings.HasSuffix(e.Name(), api.SpooledDecision) {
			take = s.takeDecision
		} else if !strings.HasSuffix(e.Name(), api.SpooledRun) {
			continue
		}
		if taken++; taken > spoolAtOnce {
			break
		}
		if err := take(ctx, filepath.Join(s.cfg.SpoolDir, e.Name())); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// takeSpooled records one spooled observation and removes its file. One that is
// not an observation is set aside by renaming it.
func (s *Service) takeSpooled(ctx context.Context, path string) error {
	o, err := readObservation(path)
	if err == nil {
		err = s.record(ctx, &o)
	}
	switch {
	case err == nil:
		s.note(o)
		return os.Remove(path)
	case !errdefs.IsInvalidArgument(err):
		return err // the file stays for the next round
	}
	return s.setAside(path, err)
}

// setAside renames a spooled file that can never be taken in, and says why.
func (s *Service) setAside(path string, why error) error {
	s.publish(api.Event{Time: s.cfg.Now(), Kind: api.EventDegraded, Message: "a spooled file was set aside: " + why.Error()})
	return os.Rename(path, path+damagedSpool)
}

// readSpooled reads a file of the spool into a value. What it holds in the place of one is ErrInvalidArgument.
func readSpooled(path string, into any) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSpooled {
		return fmt.Errorf("%s is not a file of at most %d bytes: %w", path, maxSpooled, errdefs.ErrInvalidArgument)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func readObservation(path string) (o workload.Observation, err error) {
	if err := readSpooled(path, &o); err != nil {
		return o, err
	}
	if o.Version != workload.ObservationVersion {
		return o, fmt.Errorf("%s has version %d, this daemon reads %d: %w", path, o.Version, workload.ObservationVersion, errdefs.ErrInvalidArgument)
	}
	return o, nil
}

// collect forgets containers whose shim is gone and removes what it left, once
// containerd has had the time to do that itself.
func (s *Service) collect(ctx context.Context) {
	seen := make(map[workload.ID]bool)
	for r, err := range s.cfg.Containers.List {
		seen[r.ID] = true
		switch {
		case errors.Is(err, fs.ErrNotExist): // a shim died before it had written the record
			s.discardUnwritten(ctx, r.ID)
		case err != nil || r.Alive() || r.Running() || s.cfg.Now().Sub(r.Created) < s.cfg.Collect:
		default:
			s.discard(ctx, r)
		}
	}
	logError(ctx, s.removeUnfinished(string(s.cfg.Sealed), record.TempPrefix), "half-written sealed policies")
	logError(ctx, s.removeUnfinished(s.cfg.SpoolDir, "."), "half-written observations")
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.running {
		if !seen[id] && s.cfg.Now().Sub(r.decision.Time) > s.cfg.Collect {
			s.dropLocked(id) // its Create failed after Admit, or its shim ended without a word
		}
	}
}

func (s *Service) discard(ctx context.Context, r record.Record) {
	if filepath.Dir(r.NotifySocket) == filepath.Clean(s.cfg.NotifyDir) {
		if err := os.Remove(r.NotifySocket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			logError(ctx, err, "listener socket of a dead shim")
		}
	}
	if len(r.Cgroup) > 0 {
		logError(ctx, cgroup.FromMap(r.Cgroup).Remove(), "cgroup of a dead container")
	}
	logError(ctx, r.EndAgent(), "agent of a dead shim")
	if now, err := s.cfg.Containers.Read(r.ID); err == nil && now.Run != r.Run {
		return // the next container of this name is coming to be
	}
	if err := s.cfg.Containers.Remove(r.ID); err != nil {
		logError(ctx, err, "record of a dead shim")
		return
	}
	s.lost(ctx, r.ID, r.Run)
	s.publish(api.Event{
		Time: s.cfg.Now(), ID: r.ID, Run: r.Run, Kind: api.EventCleaned,
		Message: "its shim died and containerd did not clean up: what Forefend had made for it is removed",
	})
}

// discardUnwritten removes the directory of a container that never had a record.
func (s *Service) discardUnwritten(ctx context.Context, id workload.ID) {
	path, err := s.cfg.Containers.Path(id)
	if err != nil || !s.old(path) {
		return
	}
	logError(ctx, s.cfg.Containers.Remove(id), "directory of a container without a record")
}

// removeUnfinished removes the temporary files of writers that died.
func (s *Service) removeUnfinished(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() || !s.old(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// old tells whether nobody can be in the middle of making what is at path.
func (s *Service) old(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && s.cfg.Now().Sub(info.ModTime()) >= s.cfg.Collect
}
