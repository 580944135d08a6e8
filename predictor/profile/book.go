package profile

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of a Book. Who was not heard of for longest is forgotten.
const (
	maxNames    = 10_000 // users, and groups
	maxConducts = 4096
	maxName     = 128  // bytes of a user's or group's name, as policy allows them
	maxReplay   = 5000 // runs read at start without a snapshot: a second's worth
	maxRuns     = 4096 // ids of runs that were counted
	saveEvery   = time.Minute
)

// snapshotName is the name of the Book's snapshot in the store.
const snapshotName = "profiles"

// Book is what a node knows of users, groups and the conduct of workloads.
type Book struct {
	store *store.Store
	now   func() time.Time
	notes []string // what Open could not do; fixed after it

	saving sync.Mutex // one snapshot at a time; taken before mu

	mu     sync.Mutex
	books  books      // guarded by mu
	seq    uint64     // guarded by mu: the last record of Runs that is in books
	unsave int        // guarded by mu: runs since the last snapshot
	ended  recentRuns // guarded by mu
}

// books is what a snapshot holds.
type books struct {
	Version  int                 `json:"version"`
	Users    map[string]*record  `json:"users"`
	Groups   map[string]*record  `json:"groups"`
	Conducts map[string]*conduct `json:"conducts"` // by workload.Key.String
}

func newBooks() books {
	return books{Version: version, Users: map[string]*record{}, Groups: map[string]*record{}, Conducts: map[string]*conduct{}}
}

// Open loads what is kept in s. Damage is set aside; the error is about a store that cannot be read at all.
func Open(ctx context.Context, s *store.Store, now func() time.Time) (*Book, error) {
	b := &Book{store: s, now: now, books: newBooks()}
	seq, found, err := s.ReadSnapshot(snapshotName, func(r io.Reader) (err error) {
		b.books, err = readBooks(r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load the profiles: %w", err)
	}
	if found {
		b.seq = seq
	}
	state, err := s.State(ctx, store.Runs)
	if err != nil {
		return nil, fmt.Errorf("load the profiles: %w", err)
	}
	b.seq = min(b.seq, state.Last) // the store was replaced by an older one
	if state.Last-b.seq > maxReplay {
		b.notes = append(b.notes, fmt.Sprintf("profiles: no usable snapshot; they are made from the newest %d runs", maxReplay))
		b.seq = state.Last - maxReplay
	}
	err = s.Replay(ctx, store.Runs, b.seq+1, func(r store.Record) error {
		var o run
		if json.Unmarshal(r.Body, &o) == nil && o.Version == workload.ObservationVersion { // what is damaged, the history sets aside
			b.learnLocked(r.Seq, &o)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the profiles: %w", err)
	}
	return b, nil
}

// Notes says what Open could not do, for doctor.
func (b *Book) Notes() []string { return b.notes }

// Learn counts a run that ended and is record seq of the store's runs. One that was counted already is left alone.
func (b *Book) Learn(seq uint64, o *workload.Observation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.learnLocked(seq, runOf(o))
}

func (b *Book) learnLocked(seq uint64, o *run) {
	b.seq = max(b.seq, seq)
	b.unsave++
	if b.ended.add(o.Run) {
		return
	}
	if o.Ended.IsZero() {
		o.Ended = b.now()
	}
	for _, s := range []struct {
		name string
		in   map[string]*record
	}{{o.User, b.books.Users}, {o.Group, b.books.Groups}} {
		if s.name == "" || len(s.name) > maxName {
			continue
		}
		r := s.in[s.name]
		if r == nil {
			forget(s.in, maxNames, func(r *record) time.Time { return r.Last })
			r = &record{Last: o.Ended}
			s.in[s.name] = r
		}
		r.add(o)
	}
	b.behaveLocked(o)
}

// forget makes room for one more: the eighth that was not heard of for longest goes.
func forget[V any](m map[string]V, most int, last func(V) time.Time) {
	if len(m) < most {
		return
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Or(last(m[x]).Compare(last(m[y])), cmp.Compare(x, y)) })
	for _, name := range names[:max(1, most/8)] {
		delete(m, name)
	}
}

// Standing is what is known of a user and their group together. With few runs of the user, trust leans on the group.
func (b *Book) Standing(user, group string) evidence.Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	s := evidence.Standing{Trust: stranger, Why: "never seen before"}
	if g := b.books.Groups[group]; g != nil && group != "" {
		s = g.standing(g.trust(stranger, now))
		s.Why = "group: " + s.Why
	}
	if u := b.books.Users[user]; u != nil && user != "" {
		s = u.standing(u.trust(s.Trust, now))
	} else if user != "" && s.Runs > 0 {
		s.Why = "user never seen before; " + s.Why
	}
	s.User, s.Group = user, group
	return s
}

// Of is what is known of a user or, with isGroup, a group alone; ok is false when nothing is.
func (b *Book) Of(name string, isGroup bool) (s evidence.Standing, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ofLocked(name, isGroup)
}

func (b *Book) ofLocked(name string, isGroup bool) (s evidence.Standing, ok bool) {
	in := b.books.Users
	if isGroup {
		in = b.books.Groups
	}
	r := in[name]
	if r == nil {
		return evidence.Standing{Trust: stranger}, false
	}
	s = r.standing(r.trust(stranger, b.now()))
	if isGroup {
		s.Group = name
	} else {
		s.User = name
	}
	return s, true
}

// List is every user and then every group, those of the least trust first; at most limit of each.
func (b *Book) List(limit int) []evidence.Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []evidence.Standing
	for _, isGroup := range []bool{false, true} {
		in := b.books.Users
		if isGroup {
			in = b.books.Groups
		}
		part := make([]evidence.Standing, 0, len(in))
		for name := range in {
			s, _ := b.ofLocked(name, isGroup)
			part = append(part, s)
		}
		slices.SortFunc(part, func(x, y evidence.Standing) int {
			return cmp.Or(cmp.Compare(x.Trust, y.Trust), cmp.Compare(y.Runs, x.Runs), cmp.Compare(x.User+x.Group, y.User+y.Group))
		})
		out = append(out, part[:min(len(part), limit)]...)
	}
	return out
}

// Run saves the book now and then until ctx ends. What goes wrong is told to report.
func (b *Book) Run(ctx context.Context, report func(error)) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := b.Save(); err != nil {
				report(err)
			}
		}
	}
}

// Save writes a snapshot when there is something new.
func (b *Book) Save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	if b.unsave == 0 {
		b.mu.Unlock()
		return nil
	}
	body, err := json.Marshal(b.books)
	seq, saved := b.seq, b.unsave
	b.mu.Unlock()
	if err == nil {
		err = b.store.WriteSnapshot(snapshotName, seq, encoded(body))
	}
	if err != nil {
		return fmt.Errorf("keep the profiles: %w", err)
	}
	b.mu.Lock()
	b.unsave -= saved
	b.mu.Unlock()
	return nil
}
