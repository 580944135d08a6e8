package history

import (
	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// fewRuns is how many runs of the very image a bound wants before it stops
// leaning on the runs of the same command in other versions of the image.
const fewRuns = 3

// source is a workload's own history.
type source struct {
	level  workload.Level
	runs   int // measured
	open   int // of them, runs that go on
	peaks  [kinds][estimate.Window]float32
	n      int // of peaks
	older  [kinds][estimate.Older]float32
	m      int     // of older
	lasted float32 // the longest, in seconds
}

func (s *source) history(kind int) estimate.Peaks {
	return estimate.Peaks{Runs: s.runs, Newest: s.peaks[kind][:s.n], Older: s.older[kind][:s.m], Lasted: float64(s.lasted)}
}

func (s *source) push(p peak) {
	if s.n == estimate.Window {
		return
	}
	for kind, v := range p {
		s.peaks[kind][s.n] = v
	}
	s.n++
}

// exact says whether runs at a level are runs of the workload itself.
func exact(l workload.Level) bool { return l <= workload.LevelRepositoryCommand }

// of collects the measured runs of a key. ok is false when there are none.
func (m *model) of(key workload.Key) (s source, ok bool) {
	sum := m.summaries.get(key)
	if sum == nil {
		return source{}, false
	}
	s = source{level: key.Level, runs: int(sum.measured), lasted: sum.lasted, m: min(len(sum.older), estimate.Older)}
	for _, p := range sum.ring {
		s.push(p)
	}
	for i, p := range sum.older[:s.m] {
		for kind, v := range p {
			s.older[kind][i] = v
		}
	}
	return s, s.n > 0
}

// own picks the history of the workload itself: of the very image, unless
// that has few runs and the same command in other versions has more.
func (m *model) own(keys []workload.Key) (best source, ok bool) {
	for _, key := range keys {
		if !exact(key.Level) {
			break
		}
		s, found := m.of(key)
		if found && (!ok || best.runs < fewRuns && s.runs > best.runs) {
			best, ok = s, true
		}
	}
	return best, ok
}

// censored says of a run that its peak is not what it would have used: it was killed for
// its memory, or nobody saw its end.
func censored(o *workload.Observation) bool { return o.Usage.OOMKills > 0 || o.Exit.Lost }

// learn calibrates the bounds with a run that ended, against what was said when it began. Runs that
// began before others ended were not predicted from those; so what was said then is what counts.
func (m *model) learn(r *run) {
	p := peakOf(&r.obs.Usage)
	if r.obs.Predicted == nil || p.empty() || censored(r.obs) {
		return
	}
	said := r.obs.Predicted
	before := 0
	if s, ok := m.own(r.obs.Keys); ok {
		before = s.runs
	}
	for kind, g := range [kinds]workload.Guess{memory: said.Memory, cpu: said.CPU, pids: said.PIDs, received: said.Received, sent: said.Sent} {
		if p[kind] > 0 {
			m.bounds[kind].Learn(g.Origins, g.Value, float64(p[kind]), before)
		}
	}
}
