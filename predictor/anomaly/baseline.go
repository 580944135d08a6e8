package anomaly

import (
	"maps"
	"slices"
	"sync"
)

// Baseline is what the runs of one workload taught the detectors. Any goroutines may use it, and the Watches of it, at once.
type Baseline struct {
	mu           sync.Mutex
	sequence     *Sequence // guarded by mu, like all below
	scores       Tail      // of sequences, each before it was learned
	mix          *Mix
	destinations *Novelty
	programs     *Novelty
}

// NewBaseline returns one that knows nothing: it never alarms about what a workload does, only about its use of resources.
func NewBaseline() *Baseline {
	return &Baseline{sequence: NewSequence(), mix: NewMix(), destinations: NewDestinations(), programs: NewPrograms()}
}

// Learn takes what w saw since the last Learn as normal. Call it when its run ends, and every hour of one that goes on. What
// raised an alarm is not learned, nor what else came with it: an attack must not become normal by lasting. An image that is
// changed has another baseline; a workload that changed without one is made to forget.
func (b *Baseline) Learn(w *Watch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	hours := w.last.Sub(w.learned).Hours()
	if hours < 0 {
		hours = 0
	}
	if !w.alarmed.calls {
		b.learnCalls(w, hours)
	}
	if !w.alarmed.destinations {
		b.destinations.Learn(hours, slices.Collect(maps.Keys(w.destinations)))
	}
	if !w.alarmed.programs {
		b.programs.Learn(hours, slices.Collect(maps.Keys(w.programs)))
	}
	w.taught()
	w.stream = b.mix.Stream()
}

// maxBaselineCalls bounds the calls whose order a baseline remembers. Each takes about 0.6 KiB of memory.
const maxBaselineCalls = 1 << 15

// learnCalls learns rows and traces. b.mu is held.
func (b *Baseline) learnCalls(w *Watch, hours float64) {
	b.mix.Learn(w.rows)
	if len(w.peaks) > 0 {
		b.scores.Add(hours, w.peaks...)
	}
	for _, t := range w.traces {
		if !b.sequence.dull(t) {
			b.sequence.Learn(t)
		}
	}
	if b.sequence.length > maxBaselineCalls {
		b.sequence.forget(maxBaselineCalls / 2)
	}
}
