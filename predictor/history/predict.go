package history

import (
	"fmt"
	"math"
	"slices"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// seal is when a workload counts as known.
type seal struct {
	unseen float64 // the estimate must not be above this
	runs   int     // at least so many watched runs
}

// predict says what is expected of the run that q is about.
func (m *model) predict(q workload.Query, coverage float64, limit seal) workload.Prediction {
	keys := q.Keys
	p := workload.Prediction{Unseen: 1}
	for _, key := range keys {
		if n := m.known(key); n > 0 {
			p.Runs, p.Level = n, key.Level.String()
			break
		}
	}
	if p.Runs == 0 {
		return p
	}
	m.predictUsage(&p, keys, coverage)
	m.predictCalls(&p, keys, limit)
	return p
}

// known counts the runs of a key, those that go on included.
func (m *model) known(key workload.Key) int {
	n := len(m.live[key])
	if s := m.summaries[key]; s != nil {
		n += int(s.runs)
	}
	return n
}

// predictUsage fills the bounds from the most exact history there is.
func (m *model) predictUsage(p *workload.Prediction, keys []workload.Key, coverage float64) {
	s, ok := m.current(keys)
	if !ok {
		return
	}
	for kind, to := range [kinds]*workload.Bound{&p.Memory, &p.CPU, &p.PIDs} {
		if h := s.history(kind); slices.Max(h.Newest) > 0 { // else it was never measured
			*to = boundOf(&s, m.bounds[kind].Bound(s.class, h), coverage)
		}
	}
}

// current is the most exact history as of now.
func (m *model) current(keys []workload.Key) (source, bool) {
	s, ok := m.own(keys, math.MaxUint32)
	for _, key := range keys {
		if exact(key.Level) && (!ok || key.Level == s.level) && len(m.live[key]) > 0 {
			m.addLive(&s, key)
			return s, s.n > 0
		}
	}
	if ok {
		return s, true
	}
	for _, key := range keys {
		if !general(key.Level) {
			continue
		}
		if s, ok = m.asOf(key, math.MaxUint32); ok {
			return s, true
		}
	}
	return source{}, false
}

// maxLive bounds how many runs that go on are looked at for one prediction.
const maxLive = 64

// addLive takes the runs of a key that go on into account: how far they have come
// raises the highest peak, but they count as a run only when there is no other.
func (m *model) addLive(s *source, key workload.Key) {
	var top peak
	live := m.live[key]
	for _, r := range live[max(0, len(live)-maxLive):] {
		p := peakOf(r.obs, r.end)
		top.memory, top.cpu, top.pids = max(top.memory, p.memory), max(top.cpu, p.cpu), max(top.pids, p.pids)
	}
	if top.empty() {
		return
	}
	s.class, s.level, s.open = classOf[key.Level], key.Level, len(live)
	s.runs = max(s.runs, 1)
	s.n = min(s.n, estimate.Window-1)
	s.push(top)
}

func boundOf(s *source, b estimate.Bound, coverage float64) workload.Bound {
	if b.Value == 0 {
		return workload.Bound{}
	}
	basis := fmt.Sprintf("%s %s, %d pooled scores", plural(s.runs, "run"), s.level, b.Scores)
	if b.Few {
		basis = fmt.Sprintf("%s %s, default margin (%d pooled scores are too few)", plural(s.runs, "run"), s.level, b.Scores)
	}
	if s.open > 0 {
		basis += fmt.Sprintf(", %d going on", s.open)
	}
	return workload.Bound{Value: b.Value, Coverage: coverage, Basis: basis}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// predictCalls fills what the next run is expected to do.
//
// The missing mass is that of the very image, or of the next level for a new
// image of a known command. An executable's runs in other images say which calls
// its code makes, but its missing mass says nothing: another command line is another
// program. Sealing needs runs of the most exact key itself: a new version of an image
// is watched again.
func (m *model) predictCalls(p *workload.Prediction, keys []workload.Key, limit seal) {
	var first, known *summary
	for _, key := range keys {
		if !keepsCalls(key.Level) {
			break
		}
		s := m.summaries[key]
		if s == nil || s.runs == 0 {
			continue
		}
		if first == nil {
			first = s
		}
		// As with peaks: few runs lean on the same command in other versions.
		if known == nil || known.calls.runs == 0 || known.calls.runs < fewRuns && exact(key.Level) && s.calls.runs > known.calls.runs {
			known = s
		}
	}
	if first != nil {
		p.RootfsWrites = first.rootfsWrites()
	}
	if known != nil {
		m.describe(p, known)
	}
	m.addLiveCalls(p, keys)
	for _, key := range keys {
		s := m.summaries[key]
		if !exact(key.Level) {
			break
		}
		if s == nil || s.calls.runs == 0 {
			continue
		}
		p.Unseen = estimate.MissingMass(int(s.calls.runs), s.calls.loners())
		p.Sealed = key == keys[0] && int(s.calls.runs) >= limit.runs && p.Unseen <= limit.unseen
		break
	}
}

// describe lists the calls and destinations of s.
func (m *model) describe(p *workload.Prediction, s *summary) {
	p.Seen = make(map[string]int, len(s.calls.many)+len(s.calls.once))
	note := func(c call, runs int) {
		name := m.names.list[c.id()]
		p.Seen[name] = runs
		if c.hot() {
			p.Hot = append(p.Hot, name)
		}
	}
	for _, c := range s.calls.many {
		note(c, int(c.value()))
	}
	for _, c := range s.calls.once {
		note(c, 1)
	}
	slices.Sort(p.Hot)
	for _, d := range s.destinations {
		p.Destinations = append(p.Destinations, d.Value())
	}
	slices.Sort(p.Destinations)
}

// addLiveCalls adds the calls of runs of the most exact key that go on and that no
// other run made, as seen in one run. They are not runs for the missing mass:
// a run that goes on has not shown all it does.
func (m *model) addLiveCalls(p *workload.Prediction, keys []workload.Key) {
	if len(keys) == 0 || !keepsCalls(keys[0].Level) {
		return
	}
	live := m.live[keys[0]]
	for _, r := range live[max(0, len(live)-maxLive):] {
		if !r.obs.Watched {
			continue
		}
		for _, c := range r.seen.calls {
			name := m.names.list[c.id()]
			if p.Seen[name] > 0 {
				continue
			}
			if p.Seen == nil {
				p.Seen = make(map[string]int)
			}
			p.Seen[name] = 1
			if c.hot() {
				p.Hot = append(p.Hot, name)
			}
		}
	}
	slices.Sort(p.Hot)
}
