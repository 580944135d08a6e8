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

// predict says what is expected of the next run with these keys.
func (m *model) predict(keys []workload.Key, coverage float64, limit seal) workload.Prediction {
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
	n := m.live[key]
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

// current is the most exact history as of now, with the runs that go on: how
// far they have come raises the highest peak, but they do not count as runs
// unless there are no others.
func (m *model) current(keys []workload.Key) (source, bool) {
	s, ok := m.exact(keys, math.MaxUint32)
	if !ok && !m.anyLive(keys) {
		for _, key := range keys {
			if classOf[key.Level] == estimate.Exact {
				continue
			}
			if s, ok = m.asOf(key, math.MaxUint32); ok {
				return s, true
			}
		}
		return source{}, false
	}
	m.addLive(&s, keys)
	return s, s.n > 0
}
