package anomaly

import (
	"cmp"
	"slices"
)

// The Mix's measure of time. A row is what a container called in a tenth of a second.
const (
	rowsPerHour = 36_000
	unitRows    = 5 // rows that are counted together to learn
	secondRows  = 10
	secondsRows = 30
	errandRows  = 100 // ten seconds, in which names are rare together
	segmentRows = 600 // a segment, a minute, is left out as a whole when thresholds are set
	quietRows   = 600 // alarms this close to the one before belong to it
)

// Bounds of a Mix.
const (
	maxSegments   = 48  // kept of all that was learned
	maxMixNames   = 256 // different calls
	maxFeatures   = 48  // of those, whose counts are compared
	maxFolds      = 12  // models that are made to set the thresholds
	maxMixCount   = 1 << 24
	leastSegments = 2
)

// Row counts the calls of one container in a tenth of a second, by name.
type Row map[string]int

// unit is unitRows rows counted together, in order of the names' numbers.
type unit []mixCount

type mixCount struct {
	Name  uint16
	Count uint32
}

// Mix is a model of how many of which calls a container makes at a time, in total of all its processes. It looks at three
// things: names that come seldom or never (surprise); counts that are normal one by one but not together (departure,
// over one second and over three: a Mahalanobis distance, which sees that reads stop to be twice the opens, as in
// subspace methods: Lakhina, Crovella and Diot 2004).
//
// Thresholds come from leaving out each segment in turn: what the rest finds in it would have been false alarms, and their Tail tells
// which score they exceed PerHour times an hour. A Mix that saw fewer than leastSegments never alarms.
type Mix struct {
	ids      map[string]uint16
	names    []string
	segments [][]unit // newest last
	fit      *mixFit  // nil until it is needed again
	limit    [mixParts]float64
}

// The parts of a score.
const (
	partSurprise = iota
	partSecond
	partSeconds
	mixParts
)

var mixWhy = [mixParts]string{
	partSurprise: "calls that earlier minutes seldom or never had",
	partSecond:   "counts of calls that do not belong together, within a second",
	partSeconds:  "counts of calls that do not belong together, over three seconds",
}

// leastLimit is what a threshold is at least. A few minutes without anything new say little about the hours to come; that their
// workload is like others says more: several harmless calls that were never seen are a rare errand, a program that is started, and what
// it does to start, is not.
var leastLimit = [mixParts]float64{partSurprise: 9, partSecond: 2, partSeconds: 2}

// limitMargin multiplies the thresholds of counts, whose tails a few minutes show least of.
var limitMargin = [mixParts]float64{partSurprise: 1, partSecond: 1.5, partSeconds: 1.5}

// NewMix returns a model that knows nothing.
func NewMix() *Mix { return &Mix{ids: make(map[string]uint16)} }

// Empty tells whether too little was learned for an alarm.
func (m *Mix) Empty() bool { return len(m.segments) < leastSegments }

// Learn takes rows in order of time as normal. A rest of less than half a segment is dropped, and so is a time
// without any call.
func (m *Mix) Learn(rows []Row) {
	for len(rows) >= segmentRows/2 {
		n := min(len(rows), segmentRows)
		m.learnSegment(m.units(rows[:n], true))
		rows = rows[n:]
	}
	m.fit = nil
}

func (m *Mix) learnSegment(s []unit) {
	if !slices.ContainsFunc(s, func(u unit) bool { return len(u) > 0 }) {
		return
	}
	if len(m.segments) >= maxSegments {
		m.segments = slices.Delete(m.segments, 0, 1)
	}
	m.segments = append(m.segments, s)
}

// units counts rows together. Names that are not known are learned, or get the number that no name has.
func (m *Mix) units(rows []Row, learn bool) []unit {
	var out []unit
	for len(rows) > 0 {
		n := min(len(rows), unitRows)
		sum := make(Row)
		for _, r := range rows[:n] {
			for name, c := range r {
				sum[name] = min(sum[name]+max(c, 0), maxMixCount)
			}
		}
		u, _ := m.unit(sum, learn)
		out = append(out, u)
		rows = rows[n:]
	}
	return out
}

// unit numbers the names of a row. Names it has no number for are returned.
func (m *Mix) unit(r Row, learn bool) (unit, []string) {
	u := make(unit, 0, len(r))
	var fresh []string
	for name, c := range r {
		if c <= 0 {
			continue
		}
		id, ok := m.ids[name]
		if !ok && learn && len(m.names) < maxMixNames && len(name) <= maxTraceNameLen {
			id, ok = uint16(len(m.names)), true
			m.ids[name], m.names = id, append(m.names, name)
		}
		if !ok {
			fresh = append(fresh, name)
			continue
		}
		u = append(u, mixCount{id, uint32(min(c, maxMixCount))})
	}
	slices.SortFunc(u, func(a, b mixCount) int { return cmp.Compare(a.Name, b.Name) })
	return u, fresh
}

// prepare fits the model and its thresholds to what was learned since.
func (m *Mix) prepare() {
	if m.fit != nil || m.Empty() {
		return
	}
	var tails [mixParts]Tail
	folds := min(len(m.segments), maxFolds)
	for f := range folds {
		var rest, out [][]unit
		for i, s := range m.segments {
			if i%folds == f {
				out = append(out, s)
			} else {
				rest = append(rest, s)
			}
		}
		fit := newMixFit(rest, m.names)
		for _, s := range out {
			peaks := fit.peaks(s)
			hours := float64(len(s)*unitRows) / rowsPerHour
			for p := range mixParts {
				tails[p].Add(hours, peaks[p]...)
			}
		}
	}
	m.fit = newMixFit(m.segments, m.names)
	for p := range mixParts {
		m.limit[p] = max(limitMargin[p]*tails[p].Threshold(PerHour/mixParts), leastLimit[p])
	}
}

// MixStream follows one container. It belongs to the goroutine that owns its Mix.
type MixStream struct {
	mix   *Mix
	rows  []unit     // the last ones, each by itself
	fresh [][]string // names the model had no number for, by row
}

// Stream returns a stream of a container's rows.
func (m *Mix) Stream() *MixStream { return &MixStream{mix: m} }

// Add takes the next row and tells how far the last seconds exceed the thresholds: above 1 is an alarm, and why says which part
// of the model raised it.
func (s *MixStream) Add(r Row) (score float64, why string) {
	u, fresh := s.mix.unit(r, false)
	s.rows, s.fresh = append(s.rows, u), append(s.fresh, fresh)
	if len(s.rows) > errandRows {
		s.rows, s.fresh = s.rows[1:], s.fresh[1:]
	}
	m := s.mix
	m.prepare()
	if m.fit == nil || len(u) == 0 && len(fresh) == 0 {
		return 0, "" // a row without calls is not where something begins
	}
	for p, v := range m.fit.score(s.rows, 1, s.fresh) {
		if over := v / m.limit[p]; over > score {
			score, why = over, mixWhy[p]
		}
	}
	return score, why
}
