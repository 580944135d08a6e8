package eval

import (
	"math"
	"testing"
	"time"
)

// fixed is a method with a constant limit, which notes what it saw.
type fixed struct {
	limit float64
	seen  []float64
	at    time.Time
}

func (f *fixed) Advance(time.Time)           {}
func (f *fixed) Limit(time.Time) float64     { return f.limit }
func (f *fixed) Add(at time.Time, v float64) { f.seen, f.at = append(f.seen, v), at }

func seriesOf(name string, step int64, values ...float64) usageSeries {
	s := usageSeries{name: name}
	for i, v := range values {
		s.samples = append(s.samples, usageSample{int64(i) * step, v})
	}
	return s
}

func play(all []usageSeries, window time.Duration, method func(usageSeries) usageMethod) []usageWindow {
	return playUsage(all, usageEvents(all), window, method)
}

func TestUsageScore(t *testing.T) {
	// Windows of three samples: the first is not scored, the second peaks at 12 (met), the third at 8; the last sample
	// begins a window that never ends.
	all := []usageSeries{seriesOf("a", 300, 100, 1, 1, 5, 12, 6, 8, 2, 2, 99)}
	windows := play(all, 15*time.Minute, func(usageSeries) usageMethod { return &fixed{limit: 10} })
	if len(windows) != 2 {
		t.Fatalf("scored %v", windows)
	}
	got := scoreUsage(0.9, windows)
	want := usageScore{Coverage: 0.9, Violations: 0.5, Footprint: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if s := scoreUsage(0.9, []usageWindow{{limit: 5, peak: 5}}); s.Violations != 0 || s.Footprint != 1 {
		t.Errorf("a peak that equals its limit: %+v", s)
	}
	if s := scoreUsage(0.9, nil); s.Violations != 0 || s.Footprint != 0 {
		t.Errorf("no windows: %+v", s)
	}
}

// watcher gives the highest value of all series that any method has been told so far.
type watcher struct{ highest *float64 }

func (w watcher) Advance(time.Time)          {}
func (w watcher) Limit(time.Time) float64    { return *w.highest }
func (w watcher) Add(_ time.Time, v float64) { *w.highest = max(*w.highest, v) }

func TestNoLookAhead(t *testing.T) {
	// Series b is far higher from the second window on: its own and a's limits at that instant must not know.
	all := []usageSeries{seriesOf("b", 300, 2, 2, 1000, 1000), seriesOf("a", 300, 1, 1, 1, 1)}
	highest := 0.0
	windows := play(all, 10*time.Minute, func(usageSeries) usageMethod { return watcher{&highest} })
	for _, w := range windows {
		if w.limit != 2 {
			t.Errorf("limit %v knows of later samples", w.limit)
		}
	}
	if len(windows) != 2 {
		t.Errorf("scored %v", windows)
	}
}

func TestUsageGap(t *testing.T) {
	// A window without samples is not scored; the one after it is.
	s := usageSeries{samples: []usageSample{{0, 1}, {300, 1}, {600, 4}, {900, 1}, {2400, 7}, {2700, 1}, {3000, 1}}}
	windows := play([]usageSeries{s}, 10*time.Minute, func(usageSeries) usageMethod { return &fixed{limit: 3} })
	if len(windows) != 2 || windows[0].peak != 4 || windows[1].peak != 7 {
		t.Errorf("scored %v", windows)
	}
}

func TestMaxPast(t *testing.T) {
	all := []usageSeries{seriesOf("a", 300, 10, 4, 2, 2, 3, 1)}
	windows := play(all, 10*time.Minute, func(usageSeries) usageMethod { return newMaxPast(10 * time.Minute) })
	for i, want := range []float64{11.5, 11.5} {
		if math.Abs(windows[i].limit-want) > 1e-9 {
			t.Errorf("window %d: limit %v, want %v", i, windows[i].limit, want)
		}
	}
}

func TestVPA(t *testing.T) {
	// Nine days at 10 and one at 100, a day's half-life: nearly all weight is new, so that the order decides.
	day := 24 * time.Hour
	newest, oldest := newVPA(day), newVPA(day)
	for i := range 11 {
		at := time.Unix(int64(i)*86400, 0)
		high, low := 10.0, 10.0
		if i == 9 {
			high = 100
		}
		if i == 0 {
			low = 100
		}
		newest.Add(at, high)
		oldest.Add(at, low)
	}
	at := time.Unix(11*86400, 0)
	newest.Advance(at)
	oldest.Advance(at)
	if got := newest.Limit(at); got < 115 || got > 115*1.05 {
		t.Errorf("a recent peak of 100: limit %v", got)
	}
	if got := oldest.Limit(at); got < 11.5 || got > 11.5*1.05 {
		t.Errorf("a peak of 100 ten half-lives ago: limit %v", got)
	}
}
