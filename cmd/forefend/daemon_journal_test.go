package main

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

func openJournal(t *testing.T, dir string) (*journal, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{RunsPerSubject: 64, MaxAge: time.Hour, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return newJournal(t.Context(), s, func() { t.Error("an entry was lost") }), s
}

func decided(container string, revision int) api.Decision {
	return api.Decision{Version: api.Version, Revision: revision, Facts: workload.Facts{ID: workload.ID{Namespace: "n", Container: container}}}
}

// A decision can be read from the moment it was made, while it waits for the disk and after, and the newest one counts.
func TestJournalReadsWhatWaits(t *testing.T) {
	j, s := openJournal(t, t.TempDir())
	for revision := range 3 {
		for i := range 100 {
			j.AppendDecision(decided(fmt.Sprint("c", i), revision+1))
		}
		for _, name := range []string{"c0", "c99"} {
			d, err := j.Decision(t.Context(), decided(name, 0).Facts.ID)
			if err != nil || d.Revision != revision+1 {
				t.Errorf("%s: revision %d, %v; want %d", name, d.Revision, err, revision+1)
			}
		}
	}
	j.close()
	j.newest.Range(func(subject, _ any) bool {
		t.Errorf("%s is kept in memory after it was written", subject)
		return true
	})
	d, err := j.Decision(t.Context(), decided("c7", 0).Facts.ID)
	if err != nil || d.Revision != 3 {
		t.Errorf("from disk: revision %d, %v", d.Revision, err)
	}
	if _, err := j.Decision(t.Context(), decided("nobody", 0).Facts.ID); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown container: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A decision is encoded by the journal, not by who waits for the answer. One that has no encoding is lost alone, and counted.
func TestJournalEncodesLater(t *testing.T) {
	waiting := &journal{queue: make(chan *entry, 1)}
	waiting.AppendDecision(decided("c", 1))
	if e := <-waiting.queue; e.Body != nil || e.size < 1 || waiting.waiting.Load() != e.size {
		t.Errorf("%d bytes encoded, %d of %d waiting", len(e.Body), e.size, waiting.waiting.Load())
	}

	j, s := openJournal(t, t.TempDir())
	lost := 0
	j.lost = func() { lost++ }
	odd := decided("odd", 1)
	odd.Risk = &evidence.Risk{Score: math.NaN()}
	j.AppendDecision(odd)
	j.AppendDecision(decided("c", 1))
	j.close()
	if n := j.missing.Load(); lost != 1 || n != 1 || j.waiting.Load() != 0 {
		t.Errorf("%d told, %d counted, %d bytes wait", lost, n, j.waiting.Load())
	}
	if d, err := j.Decision(t.Context(), decided("c", 0).Facts.ID); err != nil || d.Revision != 1 {
		t.Errorf("the other decision: revision %d, %v", d.Revision, err)
	}
	if _, err := j.Decision(t.Context(), odd.Facts.ID); !errdefs.IsNotFound(err) {
		t.Errorf("the one without an encoding: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Entries that come together travel together.
func TestJournalGathers(t *testing.T) {
	j := &journal{queue: make(chan *entry, journalQueue)}
	for i := range 5 {
		j.queue <- &entry{stream: []store.Stream{store.Decisions, store.Events}[i%2]}
	}
	batch := j.gather(<-j.queue, journalBurst)
	if len(batch[store.Decisions]) != 3 || len(batch[store.Events]) != 2 {
		t.Errorf("%d decisions, %d events", len(batch[store.Decisions]), len(batch[store.Events]))
	}
}
