package anomaly

import (
	"math"
	"slices"
)

// SeriesThreshold is the score at which a Series alarms: minus the decimal logarithm of the probability of so large a departure.
// On recorded series of the kind it is for it gives about one false alarm in 2,000 steps, which at ten seconds a step and with the
// three series of a container is about half of one an hour.
const SeriesThreshold = 4.5

// The measures of time of a Series, in steps.
const (
	seriesWarm    = 40   // steps before anything is said
	seriesQuiet   = 100  // an alarm this close to the one before belongs to it
	seriesLevel   = 1000 // over which the level is a median
	seriesSpread  = 2000 // over which the spread is measured
	seriesTail    = 4000 // departures that a new one is compared with
	seriesRenew   = 50   // the spread is measured anew this often
	shiftShort    = 30   // a shift is the mean of so many steps
	shiftLong     = 120  // less the mean of so many before them
	shiftPower    = 1.5  // a shift takes many steps, and so do its neighbours: its probability counts more than a jump's
	leastTail     = 200  // departures below which a probability means nothing
	seriesMargin  = 0.07 // of the range of all values: what lies that far outside of it is an alarm by itself
	seriesOutside = 5    // its score
)

// Series judges one value per time step, such as memory or CPU, against those before it. It needs no training and adapts
// for ever.
//
// It looks at three departures, each in units of the series' own spread: the jump from the value before, the distance
// from the median of the last thousand, the shift of a mean of thirty against that of the 120 before. Each is compared
// with its own past: the empirical probability of a larger one, continued by an exponential tail beyond the largest twentieth. A value
// outside everything seen by a margin is an alarm by itself (as in the detector of Numenta: Ahmad et al., "Unsupervised real-time
// anomaly detection for streaming data", Neurocomputing 2017). The score is the largest.
type Series struct {
	n       int
	recent  []float64 // the last shiftShort+shiftLong values
	level   window    // of values
	spread  window
	scale   float64
	low     float64
	high    float64
	past    [seriesParts]window // of departures
	quiet   int                 // step until which alarms belong to the last one
	alarmed bool
}

const (
	partJump = iota
	partLevel
	partShift
	seriesParts
)

// NewSeries returns a detector that has seen nothing.
func NewSeries() *Series {
	s := &Series{level: window{most: seriesLevel}, spread: window{most: seriesSpread}, low: math.Inf(1), high: math.Inf(-1)}
	for p := range s.past {
		s.past[p].most = seriesTail
	}
	return s
}

// Add takes the next value and returns its score, and whether it begins an alarm. What is no number is taken for the value before.
func (s *Series) Add(v float64) (score float64, alarm bool) {
	if math.IsNaN(v) || math.Abs(v) > 1e30 {
		v = 0
		if n := len(s.recent); n > 0 {
			v = s.recent[n-1]
		}
	}
	if s.n >= seriesWarm {
		score = s.judge(v)
	}
	s.keep(v)
	if score < SeriesThreshold {
		return score, false
	}
	alarm = !s.alarmed || s.n > s.quiet
	if alarm {
		s.alarmed, s.quiet = true, s.n+seriesQuiet
	}
	return score, alarm
}

func (s *Series) keep(v float64) {
	s.n++
	if len(s.recent) == shiftShort+shiftLong {
		s.recent = s.recent[:copy(s.recent, s.recent[1:])]
	}
	s.recent = append(s.recent, v)
	s.level.add(v)
	s.spread.add(v)
	s.low, s.high = min(s.low, v), max(s.high, v)
}

// judge scores v, which has not been kept yet.
func (s *Series) judge(v float64) float64 {
	previous := s.recent[len(s.recent)-1]
	if (s.n-seriesWarm)%seriesRenew == 0 {
		s.scale = s.spread.spread()
	}
	if s.scale <= 0 {
		s.scale = 1e-9 + math.Abs(previous)/100
	}
	score := 0.0
	add := func(part int, departure, power float64) {
		departure /= s.scale
		score = max(score, -power*math.Log10(s.past[part].beyond(departure)))
		s.past[part].add(departure)
	}
	add(partJump, math.Abs(v-previous), 1)
	add(partLevel, math.Abs(v-s.level.quantile(0.5)), 1)
	if len(s.recent) == shiftShort+shiftLong {
		before := s.recent[1:]
		long := mean(before[:shiftLong])
		short := (mean(before[shiftLong:])*(shiftShort-1) + v) / shiftShort
		add(partShift, math.Abs(short-long), shiftPower)
	}
	if margin := (s.high - s.low) * seriesMargin; s.n >= leastTail && (v > s.high+margin || v < s.low-margin) {
		score = max(score, seriesOutside)
	}
	return score
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// window is the last most values, in order of time and in order of size. Single precision is enough for it.
type window struct {
	most   int
	ring   []float32
	next   int
	sorted []float32
}

func (w *window) add(v float64) {
	x := float32(v)
	if len(w.ring) < w.most {
		w.ring = append(w.ring, x)
	} else {
		i, _ := slices.BinarySearch(w.sorted, w.ring[w.next])
		w.sorted = slices.Delete(w.sorted, i, i+1)
		w.ring[w.next] = x
		w.next = (w.next + 1) % w.most
	}
	i, _ := slices.BinarySearch(w.sorted, x)
	w.sorted = slices.Insert(w.sorted, i, x)
}

// quantile returns the value below which a share of them are.
func (w *window) quantile(q float64) float64 {
	if len(w.sorted) == 0 {
		return 0
	}
	return float64(w.sorted[min(int(q*float64(len(w.sorted))), len(w.sorted)-1)])
}

// spread is the standard deviation of normal values with the same middle four fifths, or a sixth of the range when those are equal.
func (w *window) spread() float64 {
	const fourFifths = 2.56 // of a normal distribution, in standard deviations
	if s := (w.quantile(0.9) - w.quantile(0.1)) / fourFifths; s > 0 {
		return s
	}
	return (w.quantile(1) - w.quantile(0)) / 6
}

// beyond estimates the probability of a value above v.
func (w *window) beyond(v float64) float64 {
	n := len(w.sorted)
	if n < leastTail {
		return 1
	}
	x := float32(v)
	i, _ := slices.BinarySearch(w.sorted, x)
	above := float64(n - i)
	k := max(n/20, 10)
	base := w.sorted[n-k]
	if x <= base || above >= 10 {
		return (above + 1) / float64(n+1)
	}
	excess := 0.0
	for _, t := range w.sorted[n-k:] {
		excess += float64(t - base)
	}
	excess /= float64(k)
	if excess <= 1e-12 {
		return 1 / float64(3*n) // everything was equal so far: one such value says little
	}
	return float64(k) / float64(n) * math.Exp(-float64(x-base)/excess)
}

// SeriesAlarms returns 1 where scores of a Series begin an alarm at another threshold than its own, 0 elsewhere.
func SeriesAlarms(scores []float64, threshold float64) []float64 {
	out := make([]float64, len(scores))
	quiet := -1
	for i, s := range scores {
		if s >= threshold && i > quiet {
			out[i], quiet = 1, i+seriesQuiet
		}
	}
	return out
}
