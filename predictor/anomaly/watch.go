package anomaly

import (
	"fmt"
	"math"
	"slices"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of a Watch.
const (
	rowLength     = 100 * time.Millisecond
	maxWatchRows  = 6000 // ten minutes of rows, the newest, are learned from
	maxTraces     = 128  // traces of threads kept to learn from
	maxPeaks      = 512
	leastTrace    = 20 // calls of a thread below which their order says nothing
	leastOrder    = 3  // score that an order has at least to be an alarm: a workload that always did the same may do one thing more
	longestRepeat = 32 // equal calls in a row that are looked at
)

// Watch follows one running container of a workload. It belongs to one goroutine at a time.
type Watch struct {
	baseline *Baseline
	began    time.Time
	last     time.Time // of the newest observation
	learned  time.Time // up to when the baseline learned
	cpu      float64   // seconds, at last

	usage [len(usageNames)]*Series

	destinations map[string]bool // seen in this run
	programs     map[string]bool

	stream *MixStream
	next   time.Time // when the next row begins
	rows   []Row     // to learn
	traces [][]string
	peaks  []float64

	quiet   map[string]time.Time // by kind: alarms before it belong to the last one
	alarmed struct{ calls, destinations, programs bool }
}

var usageNames = [...]string{"memory", "CPU", "processes"}

// Watch returns a watch of a container that started then.
func (b *Baseline) Watch(started time.Time) *Watch {
	w := &Watch{
		baseline: b, began: started, last: started, learned: started, next: started,
		destinations: make(map[string]bool), programs: make(map[string]bool), quiet: make(map[string]time.Time),
		stream: b.mix.Stream(),
	}
	for i := range w.usage {
		w.usage[i] = NewSeries()
	}
	return w
}

// taught forgets what has been learned.
func (w *Watch) taught() {
	w.learned, w.rows, w.traces, w.peaks = w.last, nil, nil, nil
	w.alarmed.calls, w.alarmed.destinations, w.alarmed.programs = false, false, false
}

// Observe takes the next observation of the run, made at now, and returns the anomalies that begin with it. Observations out of
// order add nothing.
func (w *Watch) Observe(o workload.Observation, now time.Time) []evidence.Anomaly {
	if now.Before(w.last) {
		return nil
	}
	w.baseline.mu.Lock()
	defer w.baseline.mu.Unlock()
	var found []evidence.Anomaly
	found = append(found, w.observeUsage(o.Usage, now)...)
	found = append(found, w.observeValues(o, now)...)
	if a, ok := w.observeCalls(o.Trace, now); ok {
		found = append(found, a)
	}
	w.last = now
	return found
}

// alarm reports whether a new alarm of a kind begins now: one that follows another within a minute belongs to it.
func (w *Watch) alarm(kind string, now time.Time) bool {
	fresh := !now.Before(w.quiet[kind])
	w.quiet[kind] = now.Add(quietRows * rowLength)
	return fresh
}

func (w *Watch) observeUsage(u workload.Usage, now time.Time) []evidence.Anomaly {
	seconds := now.Sub(w.last).Seconds()
	if seconds <= 0 {
		return nil
	}
	cores := max(u.CPUSeconds-w.cpu, 0) / seconds
	w.cpu = u.CPUSeconds
	var pids float64
	if n := len(u.Series); n > 0 {
		pids = float64(u.Series[n-1].PIDs)
	}
	var found []evidence.Anomaly
	for i, v := range [...]float64{float64(u.MemoryLast), cores, pids} {
		if score, alarm := w.usage[i].Add(v); alarm {
			found = append(found, evidence.Anomaly{
				Kind: evidence.AnomalyUsage, Time: now, Score: score, Threshold: SeriesThreshold, PerHour: PerHour,
				Why: fmt.Sprintf("%s departs from its course: %.4g", usageNames[i], v),
			})
		}
	}
	return found
}

// observeValues judges destinations and programs that this run shows for the first time.
func (w *Watch) observeValues(o workload.Observation, now time.Time) []evidence.Anomaly {
	var found []evidence.Anomaly
	judge := func(kind, verb string, known *Novelty, seen map[string]bool, counts map[string]uint64, alarmed *bool) {
		for _, v := range sortedKeys(counts) {
			if seen[v] || len(seen) >= maxNoveltyKeys {
				continue
			}
			seen[v] = true
			score, level := known.Score(v)
			if score <= NoveltyThreshold {
				continue
			}
			*alarmed = true
			if w.alarm(kind, now) {
				found = append(found, evidence.Anomaly{
					Kind: kind, Time: now, Score: score, Threshold: NoveltyThreshold, PerHour: PerHour,
					Why: fmt.Sprintf("%s %s: none of %d runs in %.1f hours %s %s", verb, v, known.runs, known.hours, verb, level),
				})
			}
		}
	}
	judge(evidence.AnomalyConnections, "reached", w.baseline.destinations, w.destinations, o.Destinations, &w.alarmed.destinations)
	judge(evidence.AnomalyPrograms, "executed", w.baseline.programs, w.programs, o.Programs, &w.alarmed.programs)
	return found
}

func sortedKeys(counts map[string]uint64) []string {
	keys := make([]string, 0, len(counts))
	for k := range counts {
		if len(k) <= maxNoveltyKey {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// observeCalls judges mix and order of the calls since the last observation.
func (w *Watch) observeCalls(t *workload.Trace, now time.Time) (evidence.Anomaly, bool) {
	calls, err := t.Calls()
	if err != nil {
		calls = nil // a damaged one says nothing; the shim is ours, and its claims are bounded anyway
	}
	a := evidence.Anomaly{Kind: evidence.AnomalySyscalls, Time: now, Threshold: 1, PerHour: PerHour}
	a.Score, a.Why = w.observeRows(t, calls, now)
	if order, why := w.observeOrder(calls); order > a.Score {
		a.Score, a.Why = order, why
	}
	if a.Score <= 1 {
		return a, false
	}
	w.alarmed.calls = true
	return a, w.alarm(evidence.AnomalySyscalls, now)
}

// observeRows cuts calls into rows up to now and returns the highest score of the mix.
func (w *Watch) observeRows(t *workload.Trace, calls []workload.Call, now time.Time) (score float64, why string) {
	if now.Sub(w.next) > maxWatchRows*rowLength {
		w.next = now.Add(-maxWatchRows * rowLength)
		w.stream = w.baseline.mix.Stream()
	}
	i := 0
	for ; !w.next.Add(rowLength).After(now); w.next = w.next.Add(rowLength) {
		row := make(Row)
		for ; i < len(calls) && t.From.Add(calls[i].At).Before(w.next.Add(rowLength)); i++ {
			row[calls[i].Name] += calls[i].Count
		}
		if len(w.rows) >= maxWatchRows {
			w.rows = w.rows[segmentRows:]
		}
		w.rows = append(w.rows, row)
		if s, reason := w.stream.Add(row); s > score {
			score, why = s, reason
		}
	}
	return score, why
}

// observeOrder scores the calls of each thread and returns how far the highest exceeds the threshold.
func (w *Watch) observeOrder(calls []workload.Call) (score float64, why string) {
	threads := make(map[uint32][]string)
	var order []uint32
	for _, c := range calls {
		if threads[c.Thread] == nil {
			order = append(order, c.Thread)
		}
		for range min(c.Count, longestRepeat) {
			threads[c.Thread] = append(threads[c.Thread], c.Name)
		}
	}
	highest := math.Inf(-1)
	for _, thread := range order {
		trace := threads[thread]
		if len(trace) < leastTrace {
			continue
		}
		if len(w.traces) < maxTraces {
			w.traces = append(w.traces, trace)
		}
		if !w.baseline.sequence.Empty() {
			highest = max(highest, w.baseline.sequence.Score(trace))
		}
	}
	if math.IsInf(highest, -1) {
		return 0, ""
	}
	if len(w.peaks) < maxPeaks {
		w.peaks = append(w.peaks, highest)
	}
	return highest / max(w.baseline.scores.Threshold(PerHour), leastOrder), "an order of calls that was never seen"
}
