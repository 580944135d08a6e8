package forecast

import (
	"math"
	"slices"
	"time"
)

// recent is the newest samples of a track, apart from each other, each the highest value since the one before.
type recent struct {
	apart time.Duration
	at    []time.Time
	value []float64
}

const (
	recentPoints = 96
	blocks       = 8 // whose maxima are the envelope
)

func (r *recent) add(at time.Time, v float64) {
	n := len(r.at)
	if n > 0 && at.Sub(r.at[n-1]) < r.apart {
		r.value[n-1] = max(r.value[n-1], v)
		return
	}
	if n == recentPoints {
		r.at = append(r.at[:0], r.at[1:]...)
		r.value = append(r.value[:0], r.value[1:]...)
	}
	r.at = append(r.at, at)
	r.value = append(r.value, v)
}

// envelope is the highest values of equal parts of the newest samples, with their times in seconds before now: a sawtooth
// is flat, whatever its teeth do.
func (r *recent) envelope(now time.Time) (x, y []float64) {
	n := len(r.at)
	size := max(1, (n+blocks-1)/blocks)
	for end := n; end > 0; end -= size {
		from := max(0, end-size)
		best := from
		for i := from; i < end; i++ {
			if r.value[i] >= r.value[best] {
				best = i
			}
		}
		x = append(x, -now.Sub(r.at[best]).Seconds())
		y = append(y, r.value[best])
	}
	return x, y
}

// slope is the envelope's, in units per second: the median of the slopes between its points (Theil 1950, Sen 1968).
func (r *recent) slope() float64 {
	if len(r.at) < 3 {
		return 0
	}
	s, _ := theilSen(r.envelope(r.at[len(r.at)-1]))
	return s
}

func theilSen(x, y []float64) (slope, deviation float64) {
	var all []float64
	for i := range x {
		for j := range i {
			if d := x[j] - x[i]; d > 0 {
				all = append(all, (y[j]-y[i])/d)
			}
		}
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	at := func(q float64) float64 { return all[min(int(q*float64(len(all))), len(all)-1)] }
	return at(0.5), (at(0.84) - at(0.16)) / 2
}

// reach is the probability that limit is reached within horizon, and the median time until it is, 0 if that is beyond.
func (r *recent) reach(now time.Time, limit float64, horizon time.Duration) (float64, time.Duration) {
	n := len(r.at)
	if n == 0 {
		return 0, 0
	}
	if r.value[n-1] >= limit {
		return 1, time.Nanosecond
	}
	if n < 3 {
		return 0, 0
	}
	x, y := r.envelope(now)
	slope, deviation := theilSen(x, y)
	residuals := make([]float64, len(x))
	for i := range x {
		residuals[i] = y[i] - slope*x[i]
	}
	slices.Sort(residuals)
	level := max(residuals[len(residuals)/2], r.value[n-1])
	noise := (residuals[len(residuals)-1] - residuals[0]) / 2
	h := horizon.Seconds()
	doubt := math.Hypot(math.Hypot(noise, deviation*h), 0.005*limit)
	p := math.Erfc((limit-level-slope*h)/doubt/math.Sqrt2) / 2
	if slope > 0 {
		if t := (limit - level) / slope; t <= h {
			return p, time.Duration(t * float64(time.Second))
		}
	}
	return p, 0
}
