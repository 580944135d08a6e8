package forecast

import (
	"math"
	"slices"
	"time"
)

// features is how many numbers describe a series at the end of a window.
const features = 34

const day = 24 * time.Hour

// describe fills x with what the model looks at, each of the order of one, and returns the logarithm of the last
// window's peak, which everything is relative to. ceiling is the highest possible value, 0 where unknown.
func (s *series) describe(x *[features]float32, ceiling float64) float64 {
	p := s.peaks
	n := len(p)
	ref := float64(p[n-1])
	back := func(k int) float64 { return float64(p[max(0, n-k)]) - ref }
	highest := func(k int) float64 { return float64(slices.Max(p[max(0, n-k):])) - ref }
	b := &s.before
	i := 0
	put := func(v float64) { x[i] = float32(min(max(v, -4), 4)); i++ }

	put(back(2))
	put(back(3))
	put(highest(3))
	put(highest(14))
	put(highest(ringWindows))
	put(s.log(s.top) - ref)
	put(float64(slices.Min(p[max(0, n-3):])) - ref)
	put(middle(p[max(0, n-15):]) - ref)
	for _, period := range []time.Duration{day, 7 * day} {
		v, ok := s.season(period)
		put(v - ref)
		put(flag(ok))
	}
	put(s.log(b.End) - ref)
	put(s.log(b.Slot[slots-1]) - ref)
	put(s.log(b.Slot[slots-2]) - ref)
	put(s.log(max(b.Slot[0], b.Slot[1], b.Slot[2], b.Slot[3])) - ref)
	mean := b.Sum / float64(b.N)
	deviation := math.Sqrt(max(0, b.Squares/float64(b.N)-mean*mean))
	put(s.log(mean) - ref)
	put(s.log(b.Low) - ref)
	put(scale(deviation / max(mean, tiny)))

	sum, rise, second := steps(p[max(0, n-15):])
	put(scale(sum))
	put(scale(rise))
	put(scale(second))
	_, rise, second = steps(p)
	put(scale(rise))
	put(scale(second))
	put(scale(spread(p[max(0, n-15):])))
	put(-math.Log(float64(min(s.runs, ringWindows))+1) / 2)
	put(flag(s.runs == 1))
	put(flag(s.runs == 2))
	put(records(p))
	gap, known := 0.0, ceiling > 0
	if known {
		gap = math.Log(ceiling) - ref
	}
	x[i] = float32(min(max(gap, -4), 7))
	i++
	put(flag(known))
	put(min(2, math.Log(s.window.Hours()+tiny)/2))
	put(float64(since(p)) / float64(n))
	put(flag(b.N < 4))
	return ref
}

// season is the highest peak of the windows one period before the next one and beside it, and of the same a period
// earlier. Without such windows it is the last window's.
func (s *series) season(period time.Duration) (v float64, ok bool) {
	lag := int32(period / s.window)
	n := len(s.peaks)
	v = float64(s.peaks[n-1])
	if lag < 2 {
		return v, false
	}
	for i, at := range s.index {
		for m := int32(1); m <= 2; m++ {
			if at == s.number-m*lag && (!ok || float64(s.peaks[i]) > v) {
				v, ok = float64(s.peaks[i]), true
			}
		}
	}
	return v, ok
}

// steps tells the mean size of the changes from one peak to the next, and the two largest rises above the two before.
func steps(p []float32) (mean, first, second float64) {
	for i := 1; i < len(p); i++ {
		mean += math.Abs(float64(p[i] - p[i-1]))
		before := p[i-1]
		if i > 1 {
			before = max(before, p[i-2])
		}
		if rise := float64(p[i] - before); rise > first {
			first, second = rise, first
		} else if rise > second {
			second = rise
		}
	}
	return mean / float64(max(1, len(p)-1)), first, second
}

// records is the share of windows whose peak was above all before them.
func records(p []float32) float64 {
	highest, count := p[0], 0
	for _, v := range p[1:] {
		if v > highest+0.01 {
			count++
			highest = v
		}
	}
	return float64(count) / float64(len(p))
}

// since counts the windows since the highest peak.
func since(p []float32) int {
	at := 0
	for i, v := range p {
		if v >= p[at] {
			at = i
		}
	}
	return len(p) - 1 - at
}

func middle(p []float32) float64 {
	sorted := slices.Sorted(slices.Values(p))
	return float64(sorted[len(sorted)/2])
}

func spread(p []float32) float64 {
	var sum, squares float64
	for _, v := range p {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	n := float64(len(p))
	return math.Sqrt(max(0, squares/n-sum/n*sum/n))
}

// scale maps a spread, whose size is a matter of orders of magnitude, to about -2…2.
func scale(v float64) float64 { return math.Log(max(v, 0)+0.003)/1.5 + 2 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
