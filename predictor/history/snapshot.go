package history

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// modelVersion is the version of the model's snapshot. Raise it when a reader
// of the old one would misread it, and keep a golden file of the old one. An unknown
// version is treated like damage: the model is made anew from the runs that are kept.
//
// Version 4, which knows no ways out, is still read; version 3, which knows no phases, is still read; version 2, which does not say how long runs went on; and version 1, whose
// calibration meant something else and is left out.
const modelVersion = 5

// WriteTo writes the model; open runs are not part of it, their checkpoints are in the store.
func (m *model) WriteTo(to io.Writer) (int64, error) {
	w := &writer{w: to}
	w.uint(modelVersion)
	w.uint(m.runs)
	w.uint(m.names.lost)
	w.uint(uint64(len(m.names.list)))
	for _, name := range m.names.list {
		w.string(name)
	}
	w.uint(uint64(len(m.ended.aged)))
	for _, h := range append(slices.Clone(m.ended.aged[m.ended.next:]), m.ended.aged[:m.ended.next]...) {
		w.uint(h)
	}
	for _, c := range m.bounds {
		w.calibration(c.State())
	}
	w.kinship(m.kin)
	w.uint(uint64(len(m.summaries.packed)))
	for s := range m.summaries.all() {
		w.summary(s)
	}
	w.flush()
	return w.n, w.err
}

func (w *writer) calibration(s estimate.State) {
	w.double(s.Level)
	w.uint(uint64(len(s.Scores)))
	for _, pool := range s.Scores {
		w.uint(uint64(len(pool)))
		for _, x := range pool {
			w.float(x)
		}
	}
}

func (w *writer) summary(s *summary) {
	w.uint(uint64(s.key.Level))
	w.string(s.key.Value)
	w.string(s.name)
	for _, v := range []uint64{uint64(s.last), uint64(s.runs), uint64(s.neverWrote), uint64(s.wrote), uint64(s.measured)} {
		w.uint(v)
	}
	w.float(s.lasted)
	w.uint(uint64(len(s.ring)))
	w.peaks(s.ring[s.next:])
	w.peaks(s.ring[:s.next])
	w.uint(uint64(len(s.older)))
	w.peaks(s.older)
	for _, c := range []*calls{&s.calls, &s.serving, &s.stopping} {
		w.uint(uint64(c.runs))
		w.calls(c.many)
		w.calls(c.once)
	}
	w.uint(uint64(len(s.destinations)))
	for _, d := range s.destinations {
		w.string(d)
	}
	w.ways(&s.ways)
}

func (w *writer) peaks(list []peak) {
	for _, p := range list {
		for _, v := range p {
			w.float(v)
		}
	}
}

func (w *writer) calls(list []call) {
	w.uint(uint64(len(list)))
	for _, c := range list {
		w.uint(uint64(c))
	}
}

// readModel reads what WriteTo wrote. Its time and memory are bounded by maxKeys
// and the constants of this package, whatever the input.
func readModel(from io.Reader, coverage float64, maxKeys int) (*model, error) {
	r := &reader{r: bufio.NewReader(from)}
	r.version = r.uint()
	if r.err == nil && (r.version < 1 || r.version > modelVersion) {
		return nil, fmt.Errorf("version %d of the history's snapshot is unknown here", r.version)
	}
	m := newModel(coverage, maxKeys)
	m.runs, m.names.lost = r.uint(), r.uint()
	for range r.count(maxNames) {
		before := len(m.names.list)
		if m.names.id(r.string(maxName)); len(m.names.list) == before {
			r.fail(fmt.Errorf("name %d is there twice", before))
			break
		}
	}
	for range r.count(maxRecent) {
		m.ended.addHash(r.uint())
	}
	if r.version == 1 {
		r.skipCalibrations()
	} else {
		for _, c := range m.bounds {
			c.Restore(r.calibration())
		}
		m.kin = r.kinship()
	}
	n := r.count(math.MaxInt32)
	for range n {
		s := r.summary(len(m.names.list))
		if r.err != nil {
			break
		}
		m.summaries.put(s)
		m.shrink()
	}
	if r.err == nil {
		if _, err := r.r.ReadByte(); err != io.EOF {
			r.fail(fmt.Errorf("more after the last of %d summaries", n))
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("read the history's snapshot: %w", r.err)
	}
	return m, nil
}

func (r *reader) calibration() estimate.State {
	var s estimate.State
	s.Level = r.double()
	for range r.count(64) {
		var pool []float32
		for range r.count(estimate.MaxScores) {
			pool = append(pool, r.float())
		}
		s.Scores = append(s.Scores, pool)
	}
	return s
}

func (r *reader) summary(names int) *summary {
	s := &summary{}
	s.key.Level = workload.Level(r.count(int(workload.LevelNode)))
	s.key.Value = r.string(maxKeyValue)
	s.name = r.string(maxText)
	s.last = int64(r.uint())
	s.runs, s.neverWrote, s.wrote, s.measured = r.uint32(), r.uint32(), r.uint32(), r.uint32()
	if r.version > 2 {
		s.lasted = r.float()
	}
	if r.version == 1 {
		s.ring = r.oldPeaks()
	} else {
		s.ring = r.peaks(estimate.Window)
		s.older = r.peaks(estimate.Older)
	}
	phases := []*calls{&s.calls, &s.serving, &s.stopping}
	if r.version < 4 {
		phases = phases[:1]
	}
	for _, c := range phases {
		c.runs = r.uint32()
		c.many, c.once = r.calls(names), r.calls(names)
	}
	if n := r.count(maxDestinations); n > 0 {
		s.destinations = make([]string, n)
		for i := range s.destinations {
			s.destinations[i] = r.string(maxText)
		}
	}
	if r.version > 4 {
		s.ways = r.ways()
	}
	return s
}

func (r *reader) peaks(most int) []peak {
	n := r.count(most)
	if n == 0 {
		return nil
	}
	list := make([]peak, n)
	for i := range list {
		for kind := range list[i] {
			list[i][kind] = r.float()
		}
	}
	return list
}

// calls reads a list that must be ordered by id without repetition, and name
// only known ids: everything that looks it up relies on that.
func (r *reader) calls(names int) []call {
	n := r.count(maxNames)
	if n == 0 {
		return nil
	}
	list := make([]call, 0, min(n, 512))
	for i := range n {
		c := call(r.uint32())
		if r.err == nil && (int(c.id()) >= names || i > 0 && byID(list[i-1], c) >= 0) {
			r.fail(fmt.Errorf("system call %d of a summary is out of order or unknown", i))
		}
		if r.err != nil {
			return nil
		}
		list = append(list, c)
	}
	return slices.Clip(list)
}
