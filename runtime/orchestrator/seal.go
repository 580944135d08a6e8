package orchestrator

import (
	"errors"
	"hash/maphash"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

const (
	sealQueue = 256
	// How long a sealed policy may lack what the newest runs taught about sizes. What may be done, and by whom it
	// was decided, is never out of date.
	resealAfter = time.Minute
	maxNotes    = 4096 // sealed policies remembered
)

// sealNote says what was sealed under a key, and when.
type sealNote struct {
	allows uint64
	at     time.Time
}

// sealPolicy writes d under its most exact key, and under the one that a shim can
// work out without the daemon. A workload that starts again and again with the same
// rights has them on disk already.
func (s *Service) sealPolicy(d api.Decision) error {
	var err error
	if key := d.Facts.Keys()[0]; key.Level <= workload.LevelExecutable { // more general ones are other workloads' too
		err = s.sealUnder(key, d)
	}
	if key, ok := d.Facts.RootfsKey(); ok {
		err = errors.Join(err, s.sealUnder(key, d))
	}
	return err
}

func (s *Service) sealUnder(key workload.Key, d api.Decision) error {
	note := sealNote{allows: s.allows(d.Effective), at: s.cfg.Now()}
	if old, ok := s.sealed[key]; ok && old.allows == note.allows && note.at.Sub(old.at) < resealAfter {
		return nil
	}
	if err := s.cfg.Sealed.Write(key, d); err != nil {
		return err
	}
	if len(s.sealed) >= maxNotes {
		clear(s.sealed) // they are written once more than necessary
	}
	s.sealed[key] = note
	return nil
}

// allows hashes who decided what about everything but sizes, which move with each run.
func (s *Service) allows(e policy.Effective) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, f := range e.Fields {
		if f.Key.Dimension() == policy.Resources {
			continue
		}
		maphash.WriteComparable(&h, f.Key)
		maphash.WriteComparable(&h, f.Value)
		maphash.WriteComparable(&h, f.Author)
		maphash.WriteComparable(&h, f.NoValue)
		for _, name := range f.Names {
			_, _ = h.WriteString(name)
			_ = h.WriteByte(0)
		}
	}
	return h.Sum64()
}
