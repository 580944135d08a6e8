package history

import (
	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// fewRuns is how many runs of the very image a bound wants before it stops
// leaning on the runs of the same command in other versions of the image.
const fewRuns = 3

// source is the history a bound is made from.
type source struct {
	class estimate.Class
	level workload.Level
	runs  int // measured
	open  int // of them, runs that go on
	peaks [kinds][estimate.Window]float32
	n     int // of peaks
}

func (s *source) history(kind int) estimate.Peaks {
	return estimate.Peaks{Runs: s.runs, Newest: s.peaks[kind][:s.n]}
}

func (s *source) push(p peak) {
	if s.n == estimate.Window {
		return
	}
	s.peaks[memory][s.n], s.peaks[cpu][s.n], s.peaks[pids][s.n] = p.memory, p.cpu, p.pids
	s.n++
}

// classOf says which levels bounds are made from, and how.
var classOf = map[workload.Level]estimate.Class{
	workload.LevelDigestCommand:     estimate.Exact,
	workload.LevelRepositoryCommand: estimate.Exact,
	workload.LevelExecutable:        estimate.Executable,
	workload.LevelNode:              estimate.Node,
}

// exact says whether runs at a level are runs of the workload itself.
func exact(l workload.Level) bool { return l <= workload.LevelRepositoryCommand }

// general says whether a level serves first runs.
func general(l workload.Level) bool {
	_, ok := classOf[l]
	return ok && !exact(l)
}

// asOf collects the measured runs of a key that had ended by a second.
// ok is false when there are none.
func (m *model) asOf(key workload.Key, second uint32) (s source, ok bool) {
	sum := m.summaries[key]
	if sum == nil {
		return source{}, false
	}
	s = source{class: classOf[key.Level], level: key.Level, runs: int(sum.measured)}
	for _, p := range sum.ring {
		if p.end > second {
			s.runs--
			continue
		}
		s.push(p)
	}
	return s, s.n > 0
}

// own picks the history of the workload itself: of the very image, unless
// that has few runs and the same command in other versions has more.
func (m *model) own(keys []workload.Key, second uint32) (best source, ok bool) {
	for _, key := range keys {
		if !exact(key.Level) {
			break
		}
		s, found := m.asOf(key, second)
		if found && (!ok || best.runs < fewRuns && s.runs > best.runs) {
			best, ok = s, true
		}
	}
	return best, ok
}

// learn calibrates the bounds with a run that ended, against what was known
// when it began. A run that was killed for its memory, or whose end nobody saw,
// tells no peak to learn from.
func (m *model) learn(r *run) {
	p := peakOf(r.obs, r.end)
	if p.empty() || r.obs.Usage.OOMKills > 0 || r.obs.Exit.Lost {
		return
	}
	began := seconds(r.obs.Started)
	if s, ok := m.own(r.obs.Keys, began); ok {
		m.learnFrom(&s, p)
		return
	}
	for _, key := range r.obs.Keys {
		if !general(key.Level) {
			continue
		}
		if s, ok := m.asOf(key, began); ok {
			m.learnFrom(&s, p)
		}
	}
}

func (m *model) learnFrom(s *source, p peak) {
	for kind, actual := range [kinds]float32{p.memory, p.cpu, p.pids} {
		if actual > 0 {
			m.bounds[kind].Learn(s.class, s.history(kind), float64(actual))
		}
	}
}
