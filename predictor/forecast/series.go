package forecast

import (
	"math"
	"time"
)

const (
	ringWindows = 192 // window peaks kept: eight days of hours
	slots       = 8   // parts of a window whose peaks are kept
	tiny        = 1e-9
	// floorShare is the least value, as a share of the highest seen, that is told from nothing.
	floorShare = 1e-3
)

// series is the bounded memory of one resource of one container: the peaks of its last windows, and more detail of the
// window that ended last. Logarithms throughout, as containers differ by size more than by shape.
type series struct {
	window time.Duration
	start  time.Time // of the window that is filling
	last   time.Time // of the newest sample
	value  float64   // the newest sample

	peaks  []float32 // logarithms, oldest first, at most ringWindows
	index  []int32   // window number of each, counted from the first sample
	number int32     // of the window that is filling
	runs   int       // windows with samples, ever
	top    float64   // highest value ever

	filling window
	before  window // the one that ended last
}

// window sums up the samples of one window.
type window struct {
	Peak, Low, Sum, Squares float64
	N                       int
	Slot                    [slots]float64 // peaks of its parts; 0: no sample
	End                     float64        // last sample
}

func (w *window) add(part int, v float64) {
	if w.N == 0 || v > w.Peak {
		w.Peak = v
	}
	if w.N == 0 || v < w.Low {
		w.Low = v
	}
	w.Slot[part] = max(w.Slot[part], v)
	w.Sum += v
	w.Squares += v * v
	w.End = v
	w.N++
}

// closeUntil ends the filling window if now is beyond it, and returns it with true if it held samples.
func (s *series) closeUntil(now time.Time) (window, bool) {
	if s.start.IsZero() || now.Before(s.start.Add(s.window)) {
		return window{}, false
	}
	passed := now.Sub(s.start) / s.window
	done := s.filling
	s.start = s.start.Add(passed * s.window)
	if done.N > 0 {
		s.keep(done)
	}
	s.number += int32(min(passed, math.MaxInt32/2))
	s.filling = window{}
	return done, done.N > 0
}

func (s *series) keep(done window) {
	if len(s.peaks) == ringWindows {
		s.peaks = append(s.peaks[:0], s.peaks[1:]...)
		s.index = append(s.index[:0], s.index[1:]...)
	}
	s.peaks = append(s.peaks, float32(s.log(done.Peak)))
	s.index = append(s.index, s.number)
	s.runs++
	s.before = done
}

// add takes a sample of the filling window.
func (s *series) add(at time.Time, v float64) {
	if s.start.IsZero() {
		s.start = at
	}
	part := int(at.Sub(s.start) * slots / s.window)
	s.top = max(s.top, v)
	s.filling.add(min(max(part, 0), slots-1), v)
	s.last, s.value = at, v
}

// log is the logarithm of v, or of what counts as nothing for this series.
func (s *series) log(v float64) float64 { return math.Log(max(v, s.top*floorShare, tiny)) }

// seasonal tells whether a day is many windows, and at least two have been seen.
func (s *series) seasonal() bool {
	lag := int(day / s.window)
	return lag >= 2 && len(s.peaks) > 2*lag && s.repeats(lag)
}

// repeats tells whether peaks follow those of lag windows ago more closely than those right before them.
func (s *series) repeats(lag int) bool {
	var near, far float64
	for i := lag; i < len(s.peaks); i++ {
		near += math.Abs(float64(s.peaks[i] - s.peaks[i-1]))
		far += math.Abs(float64(s.peaks[i] - s.peaks[i-lag]))
	}
	return far < 0.8*near
}
