package history

import (
	"fmt"
	"slices"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// seal is when a workload counts as known.
type seal struct {
	unseen float64 // the estimate must not be above this
	runs   int     // at least so many watched runs
	served int     // likewise, for what it does while serving: runs that served; below 0: never
}

// predict says what is expected of the run that q is about.
func (m *model) predict(q workload.Query, coverage float64, limit seal) workload.Prediction {
	p := workload.Prediction{Unseen: 1}
	for _, key := range q.Keys {
		if n := m.known(key); n > 0 {
			p.Runs, p.Level = n, key.Level.String()
			break
		}
	}
	m.predictUsage(&p, q, coverage)
	if p.Runs > 0 {
		m.predictCalls(&p, q.Keys, limit)
		p.Ways = m.predictWays(q.Keys)
	}
	return p
}

// known counts the runs of a key, those that go on included.
func (m *model) known(key workload.Key) int {
	n := len(m.live[key])
	if p, ok := m.summaries.packed[key]; ok {
		n += int(p.head().runs)
	}
	return n
}

// predictUsage fills the bounds: from the workload's own history, or for a first run from all
// that is known beside it.
func (m *model) predictUsage(p *workload.Prediction, q workload.Query, coverage float64) {
	s, ok := m.current(q.Keys)
	var traits []traitName
	for kind, to := range [kinds]*workload.Bound{&p.Memory, &p.CPU, &p.PIDs, &p.Received, &p.Sent} {
		var g guess
		if h := s.history(kind); ok && slices.Max(h.Newest) > 0 { // else it was never measured
			g = m.itself(&s, h, kind)
		} else {
			if traits == nil {
				traits = traitsOf(q)
			}
			g = m.first(q, traits, kind)
		}
		*to = m.bound(g, kind, asked(q.Requested, kind), coverage)
	}
}

// guess is what a bound is made from.
type guess struct {
	origins []workload.Origin
	basis   string  // of the first
	most    float64 // a peak of before that was above the request: it binds nobody
}

func (m *model) itself(s *source, h estimate.Peaks, kind int) guess {
	o, _ := m.bounds[kind].Own(h)
	basis := fmt.Sprintf("%s %s", plural(s.runs, "run"), s.level)
	if s.open > 0 {
		basis += fmt.Sprintf(", %d going on", s.open)
	}
	if o.Pool == uint8(estimate.PoolBrief) {
		basis += ", brief"
	}
	return guess{[]workload.Origin{o}, basis, float64(max(slices.Max(h.Newest), highest(h.Older)))}
}

func highest(peaks []float32) (top float32) {
	for _, p := range peaks {
		top = max(top, p)
	}
	return top
}

// first collects what is known of a workload's first run.
func (m *model) first(q workload.Query, traits []traitName, kind int) guess {
	c := m.bounds[kind]
	g := guess{origins: make([]workload.Origin, 0, workload.MaxOrigins)}
	add := func(o workload.Origin, ok bool, basis string) {
		if !ok {
			return
		}
		if g.origins = append(g.origins, o); g.basis != "" {
			g.basis += ", "
		}
		g.basis += basis
	}
	kin, by, ok := m.closest(q, traits, kind)
	add(kin, ok, "alike by "+by)
	if kind == memory {
		o, ok := c.Scanned(q.Prior.Typical, q.Prior.High)
		add(o, ok, "scan: "+q.Prior.Runtime)
	}
	o, ok := c.Asked(asked(q.Requested, kind))
	add(o, ok, "the request")
	if len(g.origins) == 0 {
		add(c.Unknown(), true, "first runs on this node")
	}
	return g
}

// bound is the bound that a guess gives.
func (m *model) bound(g guess, kind int, asked, coverage float64) workload.Bound {
	if g.most > asked {
		asked = 0
	}
	b := m.bounds[kind].Bound(g.origins, asked)
	if b.Value == 0 { // the first runs of a node still teach what first runs are like
		return workload.Bound{Origins: g.origins}
	}
	basis := fmt.Sprintf("%s; %d pooled scores", g.basis, b.Scores)
	return workload.Bound{Value: b.Value, Coverage: coverage, Basis: basis, Origins: g.origins}
}

// current is the workload's own history as of now.
func (m *model) current(keys []workload.Key) (source, bool) {
	s, ok := m.own(keys)
	for _, key := range keys {
		if exact(key.Level) && (!ok || key.Level == s.level) && len(m.live[key]) > 0 {
			m.addLive(&s, key)
			break
		}
	}
	return s, s.n > 0
}

// maxLive bounds how many runs that go on are looked at for one prediction.
const maxLive = 64

// addLive takes the runs of a key that go on into account: how far they have come
// raises the highest peak, but they count as a run only when there is no other.
func (m *model) addLive(s *source, key workload.Key) {
	var top peak
	lasted := s.lasted
	live := m.live[key]
	for _, r := range live[max(0, len(live)-maxLive):] {
		top = top.highest(peakOf(&r.obs.Usage))
		lasted = max(lasted, r.lasted())
	}
	if top.empty() {
		return
	}
	s.level, s.open, s.lasted = key.Level, len(live), lasted
	s.runs = max(s.runs, 1)
	s.n = min(s.n, estimate.Window-1)
	s.push(top)
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
		s := m.summaries.get(key)
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
		p.Phases = m.phases(known, known.key == keys[0], limit)
	}
	m.addLiveCalls(p, keys)
	for _, key := range keys {
		s := m.summaries.get(key)
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
	p.Watched, p.More = int(s.calls.runs), len(s.destinations) >= maxDestinations
	p.Destinations = s.destinations
	slices.Sort(p.Destinations)
}

// phases lists what the runs of s did in which phase, nil when none is known to have served. Known needs runs of the
// workload itself, as sealing does. A call that was at full speed in some run was not counted there: it may
// have been made at any time. What a run that goes on has done while serving is no surprise either.
func (m *model) phases(s *summary, itself bool, limit seal) *workload.Phases {
	if s.serving.runs == 0 {
		return nil
	}
	serving := make(map[uint32]bool)
	for c := range s.serving.all {
		serving[c.id()] = true
	}
	live := m.live[s.key]
	for _, r := range live[max(0, len(live)-maxLive):] {
		if r.serving != nil {
			for _, c := range r.serving.calls {
				serving[c.id()] = true
			}
		}
	}
	p := &workload.Phases{Runs: int(s.serving.runs), Stops: int(s.stopping.runs)}
	p.Unseen = estimate.MissingMass(p.Runs, s.serving.loners())
	p.Known = itself && limit.served >= 0 && p.Runs >= limit.served && p.Unseen <= limit.unseen
	for id := range serving {
		p.Serving = append(p.Serving, m.names.list[id])
	}
	for c := range s.calls.all {
		if !c.native() && !serving[c.id()] {
			p.Start = append(p.Start, m.names.list[c.id()])
		}
	}
	for c := range s.stopping.all {
		p.Stop = append(p.Stop, m.names.list[c.id()])
	}
	slices.Sort(p.Serving)
	slices.Sort(p.Start)
	slices.Sort(p.Stop)
	return p
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
