package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// asideDir holds what could not be read. It is for people: Forefend never reads
// it again, except the names.
const asideDir = "set-aside"

// maxAside bounds how many copies of damaged records are kept; more are still reported.
const maxAside = 1000

// maxReports bounds the list SetAside returns.
const maxReports = 1000

// SetAside lists what was damaged, oldest first: where the copy is and why.
// It includes what earlier processes set aside, until someone empties the directory.
func (s *Store) SetAside() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.setAside)
}

func (s *Store) report(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.setAside) < maxReports {
		s.setAside = append(s.setAside, line)
	}
}

// loadSetAside reports what is in the set-aside directory already.
func (s *Store) loadSetAside() error {
	dir, err := os.Open(filepath.Join(s.dir, asideDir))
	if err != nil {
		return fmt.Errorf("list what was set aside: %w", err)
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(2 * maxAside) //nolint:errcheck // an empty directory ends with EOF
	slices.Sort(names)
	for _, name := range names {
		if !strings.HasSuffix(name, ".why") {
			why, _ := os.ReadFile(filepath.Join(s.dir, asideDir, name+".why")) //nolint:errcheck // without reason then
			s.report(fmt.Sprintf("%s: %s (earlier)", filepath.Join(s.dir, asideDir, name), strings.TrimSpace(string(why))))
		}
	}
	return nil
}

// moveAside renames a file or directory into the set-aside directory.
func (s *Store) moveAside(path, why string) error {
	for n := 1; ; n++ {
		to := filepath.Join(s.dir, asideDir, fmt.Sprintf("%s.%d", filepath.Base(path), n))
		if _, err := os.Lstat(to); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s aside: %w", path, err)
		}
		if err := os.Rename(path, to); err != nil {
			return fmt.Errorf("set %s aside: %w", path, err)
		}
		s.explain(to, why)
		return nil
	}
}

// SetAsideRecord keeps a copy of a record that a caller could not use, deletes
// the record so that it is never replayed again, and reports it.
func (s *Store) SetAsideRecord(stream Stream, r Record, cause error) {
	s.discard(stream, r.Seq, r.Body, cause)
}

// discard copies data into the set-aside directory and deletes the record.
func (s *Store) discard(stream Stream, seq uint64, data []byte, cause error) {
	at := damagedAt{stream, seq}
	s.mu.Lock()
	again, full := s.skipped[at], len(s.skipped) >= maxAside
	if !full {
		s.skipped[at] = true
	}
	s.mu.Unlock()
	if again {
		return
	}
	why := fmt.Sprintf("record %d of %s: %v", seq, stream, cause)
	if full {
		s.report(why + " (no copy: there are too many)")
	} else if err := s.copyAside(stream, seq, data, why); err != nil {
		s.report(why + " (no copy: " + err.Error() + ")")
		return // the only copy stays where it is
	}
	if err := s.deleteRecord(stream, seq); err != nil {
		s.report(fmt.Sprintf("record %d of %s could not be deleted: %v", seq, stream, err))
	}
}

func (s *Store) copyAside(stream Stream, seq uint64, data []byte, why string) error {
	sum := sha256.Sum256(data)
	name := fmt.Sprintf("%s-%d-%s", strings.ToLower(string(stream)), seq, hex.EncodeToString(sum[:4]))
	path := filepath.Join(s.dir, asideDir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	s.explain(path, why)
	return nil
}

// explain writes the reason beside what was set aside, and reports it. The reason is a
// comfort: failing to write it changes nothing.
func (s *Store) explain(path, why string) {
	_ = os.WriteFile(path+".why", []byte(why+"\n"), 0o600)
	s.report(path + ": " + why)
}

func purgeSubject(subject string) jetstream.StreamPurgeOpt {
	return jetstream.WithPurgeSubject(subject)
}
