package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// Workload is the history of one workload in a row.
type Workload struct {
	Key        workload.Key
	Name       string
	Runs       int
	Last       time.Time
	Prediction workload.Prediction // for its next run
}

// maxWorkloads bounds one list.
const maxWorkloads = 1000

// Workloads lists the workloads whose name contains filter, whatever its case, or
// whose key begins with it, the latest first. Limit 0 is 100, the most is 1000.
// Predict is never kept waiting for longer than it takes to look at every name.
func (b *Book) Workloads(filter string, limit int) []Workload {
	if limit <= 0 {
		limit = 100
	}
	found := b.matching(filter)
	slices.SortFunc(found, func(x, y Workload) int {
		return cmp.Or(y.Last.Compare(x.Last), strings.Compare(x.Key.Value, y.Key.Value))
	})
	found = slices.Clone(found[:min(limit, len(found), maxWorkloads)])
	for i := range found {
		w := &found[i]
		b.mu.RLock()
		w.Runs = b.model.known(w.Key)
		w.Prediction = b.model.predict(workload.Query{Keys: []workload.Key{w.Key}}, b.options.Coverage, b.options.seal())
		b.mu.RUnlock()
	}
	return found
}

// matching finds names alone.
func (b *Book) matching(filter string) (found []Workload) {
	lower := strings.ToLower(filter)
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.model.summaries.heads() {
		if s.name != "" && (filter == "" || strings.HasPrefix(s.key.Value, filter) || strings.HasPrefix(s.key.String(), filter) ||
			strings.Contains(strings.ToLower(s.name), lower)) {
			found = append(found, Workload{Key: s.key, Name: s.name, Last: time.Unix(0, s.last)})
		}
	}
	return found
}

// Runs returns the runs kept of the workload with this (most exact) key, the newest first.
// Limit 0 is all that are kept.
func (b *Book) Runs(ctx context.Context, key workload.Key, limit int) ([]workload.Observation, error) {
	if limit <= 0 || limit > b.options.RunsPerWorkload {
		limit = b.options.RunsPerWorkload
	}
	records, err := b.store.Newest(ctx, store.Runs, subject(key), limit)
	if err != nil {
		return nil, fmt.Errorf("runs of %s: %w", key, err)
	}
	out := make([]workload.Observation, 0, len(records))
	listed := make(map[string]bool, len(records))
	for _, r := range slices.Backward(records) {
		o, err := decode(r.Body)
		if err != nil {
			b.store.SetAsideRecord(store.Runs, r, err)
			continue
		}
		if listed[o.Run] { // sent again by a shim whose daemon was killed before it could acknowledge
			continue
		}
		listed[o.Run] = true
		out = append(out, *o)
	}
	return out, nil
}

// Stats is how much a Book knows.
type Stats struct {
	Workloads int           // with a name: the most exact key of some run
	Keys      int           // at all levels
	Runs      uint64        // counted since the store began
	Open      int           // runs that go on
	LostNames uint64        // sightings of system calls for whose name there was no room
	Load      time.Duration // how long Open took
}

// Stats returns how much the Book knows.
func (b *Book) Stats() Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := Stats{Keys: len(b.model.summaries.packed), Runs: b.model.runs, Open: len(b.model.open), LostNames: b.model.names.lost, Load: b.took}
	for sum := range b.model.summaries.heads() {
		if sum.name != "" {
			s.Workloads++
		}
	}
	return s
}

// SetAside lists what was damaged and could not be used: where it is and why,
// and what the model lacks because of it.
func (b *Book) SetAside() []string { return append(b.store.SetAside(), b.notes...) }
