package history

import (
	"slices"
	"time"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// The kinds of peak a bound is given for, and the difference of each that does not matter.
const (
	memory = iota
	cpu
	pids
	received
	sent
	kinds
)

var slacks = [kinds]float64{memory: 24 << 20, cpu: 0.1, pids: 4, received: 64 << 10, sent: 64 << 10}

// model is everything a Book has in memory. It has no lock.
type model struct {
	summaries shelf
	names     names
	kin       kinship
	bounds    [kinds]*estimate.Calibrator
	ended     recent                  // runs that were counted
	open      map[string]*run         // runs that go on, by id, as of their last checkpoint
	live      map[workload.Key][]*run // of open, those with this key, oldest first
	openBytes int                     // of open, about
	runs      uint64                  // counted in all, forgotten workloads included
	maxKeys   int
	maxBytes  int
	served    float64 // seconds that a run must have served to teach what serving runs do
}

// Bounds of what a model remembers besides the number of its keys.
const (
	maxOpen      = 8192      // runs that go on
	maxOpenBytes = 48 << 20  // and what their last checkpoints take, about
	maxBytes     = 192 << 20 // all summaries, about; 100,000 usual ones take 80 MiB
)

func newModel(coverage float64, maxKeys int) *model {
	m := &model{
		summaries: newShelf(),
		names:     newNames(),
		kin:       newKinship(),
		ended:     newRecent(),
		open:      make(map[string]*run),
		live:      make(map[workload.Key][]*run),
		maxKeys:   maxKeys,
		maxBytes:  maxBytes,
	}
	for kind := range m.bounds {
		m.bounds[kind] = estimate.NewCalibrator(slacks[kind], coverage)
	}
	return m
}

// end counts a run that ended. A run that was counted already only adds what is
// new of it.
func (m *model) end(o *workload.Observation, at time.Time) {
	m.forgetOpen(o.Run)
	r := m.names.newRun(o, at)
	r.byPhase(&m.names, m.served)
	if !m.ended.add(o.Run) {
		m.amend(r)
		return
	}
	m.learn(r)
	m.runs++
	for i, key := range o.Keys {
		m.summaries.change(key, func(s *summary) {
			if i == 0 {
				s.heard(o, at)
			}
			s.add(r)
		})
	}
	m.related(r)
	m.shrink()
}

func (m *model) amend(r *run) {
	for _, key := range r.obs.Keys {
		if s := m.summaries.get(key); s != nil {
			s.amend(r)
			m.summaries.put(s)
		}
	}
}

// checkpoint notes how far a run has come that goes on.
func (m *model) checkpoint(o *workload.Observation, at time.Time) {
	r := m.names.newRun(o, at)
	r.byPhase(&m.names, 0)  // whatever it did while serving is no surprise
	if m.ended.has(o.Run) { // it was given up too early
		m.amend(r)
		return
	}
	m.forgetOpen(o.Run)
	r.size = r.sizeOf()
	m.open[o.Run], m.openBytes = r, m.openBytes+r.size
	m.summaries.change(o.Keys[0], func(s *summary) { s.heard(o, at) })
	for _, key := range o.Keys {
		m.live[key] = append(m.live[key], r)
	}
}

func (m *model) forgetOpen(id string) {
	r := m.open[id]
	if r == nil {
		return
	}
	delete(m.open, id)
	m.openBytes -= r.size
	for _, key := range r.obs.Keys {
		rest := slices.DeleteFunc(m.live[key], func(other *run) bool { return other == r })
		if m.live[key] = rest; len(rest) == 0 {
			delete(m.live, key)
		}
	}
}

// crowded returns the run that has been silent for longest when more go on than
// a model remembers, else nil.
func (m *model) crowded() (oldest *run) {
	if len(m.open) <= maxOpen && m.openBytes <= maxOpenBytes {
		return nil
	}
	for _, r := range m.open {
		if oldest == nil || r.end.Before(oldest.end) {
			oldest = r
		}
	}
	return oldest
}

// heard notes the name and time of a run at its most exact key.
func (s *summary) heard(o *workload.Observation, at time.Time) {
	if o.Name != "" {
		s.name = o.Name
	}
	s.last = max(s.last, at.UnixNano())
}
