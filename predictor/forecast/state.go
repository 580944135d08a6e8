package forecast

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// stateVersion is of what Model.State and Track.State write. It changes when older states can no longer be read.
const stateVersion = 1

// ErrState is what Restore and Resume return for bytes that are no state of this version. Nothing is changed then.
var ErrState = errors.New("not a usage forecast state of this version")

// modelState is what a node has learned, by resource. It goes with the networks it was learned with.
type modelState struct {
	Version int                  `json:"version"`
	Prior   uint64               `json:"prior"` // of the networks' weights
	Pools   map[string]poolState `json:"pools"`
}

type poolState struct {
	Windows int       `json:"windows"`
	Debt    float64   `json:"debt"`
	Over    float64   `json:"overshoot"`
	Met     float64   `json:"met"`
	Feared  float64   `json:"feared"`
	Ranks   []float32 `json:"ranks,omitempty"`   // oldest first
	Outlook []outlook `json:"outlook,omitempty"` // oldest first
}

// State returns what m has learned, for Restore. It is also what may be shipped as a prior to nodes that run the like.
func (m *Model) State() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := modelState{Version: stateVersion, Prior: fingerprint(m.config.Weights), Pools: make(map[string]poolState)}
	for name, p := range m.pools {
		kept := poolState{Windows: p.windows, Debt: p.debt, Over: p.over, Met: p.met, Feared: p.feared}
		kept.Ranks = append(append(kept.Ranks, p.ranks[p.oldest:]...), p.ranks[:p.oldest]...)
		for i := range min(len(p.recent), keptOutlooks) {
			o := p.recent[(p.next+len(p.recent)-min(len(p.recent), keptOutlooks)+i)%len(p.recent)]
			kept.Outlook = append(kept.Outlook, *o)
		}
		s.Pools[name] = kept
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode usage forecast state: %w", err)
	}
	return b, nil
}

// keptOutlooks is how many windows a state describes, enough to find a price on.
const keptOutlooks = 256

// maxPools bounds how many resources a state may name.
const maxPools = 64

// Restore makes m know what State told. Call it before the first Track. Values that cannot have been learned are an
// ErrState.
func (m *Model) Restore(b []byte) error {
	var s modelState
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Version != stateVersion || s.Prior != fingerprint(m.config.Weights) || len(s.Pools) > maxPools {
		return fmt.Errorf("%w: version %d", ErrState, s.Version)
	}
	pools := make(map[string]*pool)
	for _, name := range slices.Sorted(maps.Keys(s.Pools)) {
		p := newPool(1-m.config.Coverage, m.config.Weights)
		if err := p.restore(s.Pools[name]); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrState, name, err)
		}
		pools[name] = p
	}
	m.pools = pools
	return nil
}

func (p *pool) restore(s poolState) error {
	if s.Windows < 0 || !(math.Abs(s.Debt) <= maxDebt) || !(s.Over >= 1 && s.Over <= maxOvershoot+0.01) ||
		!(s.Met >= 0 && s.Met <= fade) || !(s.Feared >= 0 && s.Feared <= fade) {
		return errors.New("counters out of range")
	}
	p.windows, p.debt, p.over, p.met, p.feared = s.Windows, s.Debt, s.Over, s.Met, s.Feared
	for _, r := range s.Ranks[max(0, len(s.Ranks)-memory):] {
		if !(r >= 0 && r <= 1) {
			return fmt.Errorf("rank %v out of range", r)
		}
		p.rank(r)
	}
	p.correction = newCorrection(p.ranks, doubt)
	for _, o := range s.Outlook[max(0, len(s.Outlook)-population):] {
		if !o.valid() {
			return errors.New("outlook out of range")
		}
		o.Risk = make([]float32, len(grid))
		p.offer(&o)
	}
	return nil
}

func (o *outlook) valid() bool {
	if len(o.Above) != len(grid) || !(o.Size > 0) || math.IsInf(o.Size, 0) || !(o.Ceiling >= 0) || math.IsInf(o.Ceiling, 0) {
		return false
	}
	return !slices.ContainsFunc(o.Above, func(p float32) bool { return !(p >= 0 && p <= 1) })
}

// fingerprint tells networks apart (FNV-1a over the weights' bits).
func fingerprint(nets [][]float32) uint64 {
	h := uint64(14695981039346656037)
	var b [4]byte
	for _, w := range nets {
		for _, v := range w {
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			for _, c := range b {
				h = (h ^ uint64(c)) * 1099511628211
			}
		}
	}
	return h
}

// trackState is a series between two lives of the daemon.
type trackState struct {
	Version int       `json:"version"`
	Start   int64     `json:"start"`  // of the filling window, unix nanoseconds
	Number  int32     `json:"number"` // of the filling window
	Runs    int       `json:"runs"`
	Top     float64   `json:"top"`
	Peaks   []float32 `json:"peaks"` // logarithms, oldest first
	Index   []int32   `json:"index"` // their windows' numbers
	Before  window    `json:"before"`
	Filling window    `json:"filling"`
}

// State returns the windows that t has seen, for Resume. Samples of the last minutes, which only the time to a limit is
// made from, are not in it.
func (t *Track) State() ([]byte, error) {
	t.model.mu.Lock()
	defer t.model.mu.Unlock()
	s := &t.series
	start := int64(0) // no sample yet
	if !s.start.IsZero() {
		start = s.start.UnixNano()
	}
	b, err := json.Marshal(trackState{
		Version: stateVersion, Start: start, Number: s.number, Runs: s.runs, Top: s.top,
		Peaks: s.peaks, Index: s.index, Before: s.before, Filling: s.filling,
	})
	if err != nil {
		return nil, fmt.Errorf("encode usage track: %w", err)
	}
	return b, nil
}

// Resume continues a new track where State left it; the window that was filling goes on.
func (t *Track) Resume(b []byte) error {
	var s trackState
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if s.Start == 0 {
		return nil
	}
	t.model.mu.Lock()
	defer t.model.mu.Unlock()
	t.series = s.series(t.model.config.Window)
	if len(t.series.peaks) > 0 {
		t.look()
	}
	return nil
}

func (s *trackState) check() error {
	switch {
	case s.Version != stateVersion:
		return fmt.Errorf("version %d", s.Version)
	case len(s.Peaks) != len(s.Index), len(s.Peaks) > ringWindows, s.Runs < len(s.Peaks), s.Number < 0:
		return errors.New("counters do not fit")
	case !(s.Top >= 0) || math.IsInf(s.Top, 0), len(s.Peaks) > 0 && s.Before.N < 1:
		return errors.New("values out of range")
	}
	for i, v := range s.Peaks {
		if !(math.Abs(float64(v)) < 750) || s.Index[i] < 0 || s.Index[i] >= s.Number || i > 0 && s.Index[i] <= s.Index[i-1] {
			return fmt.Errorf("window %d out of range", i)
		}
	}
	if !s.Before.valid() || !s.Filling.valid() {
		return errors.New("samples out of range")
	}
	return nil
}

func (s *trackState) series(window time.Duration) series {
	start := time.Unix(0, s.Start)
	return series{
		window: window, start: start, last: start, value: s.Filling.End,
		peaks: s.Peaks, index: s.Index, number: s.Number, runs: s.Runs, top: s.Top, before: s.Before, filling: s.Filling,
	}
}

func (w *window) valid() bool {
	for _, v := range append(w.Slot[:], w.Peak, w.Low, w.Sum, w.Squares, w.End) {
		if !(v >= 0) || math.IsInf(v, 0) {
			return false
		}
	}
	return w.N >= 0 && w.N < 1<<40
}
