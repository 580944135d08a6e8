package eval

import (
	"math"
	"time"
)

// windowed is what both baselines share: they know the peaks of past windows.
type windowed struct {
	window  time.Duration
	start   time.Time
	peak    float64
	started bool
	learn   func(at time.Time, peak float64)
	limit   func() float64
}

func (w *windowed) Advance(at time.Time) {
	if !w.started || at.Before(w.start.Add(w.window)) {
		return
	}
	w.learn(w.start, w.peak)
	w.start = w.start.Add(at.Sub(w.start) / w.window * w.window)
	w.peak = 0
}

func (w *windowed) Limit(time.Time) float64 { return w.limit() * 1.15 }

func (w *windowed) Add(at time.Time, v float64) {
	if !w.started {
		w.start, w.started = at, true
	}
	w.Advance(at)
	w.peak = max(w.peak, v)
}

// newMaxPast gives the highest value of the past plus 15 %.
func newMaxPast(window time.Duration) usageMethod {
	highest := 0.0
	return &windowed{
		window: window,
		learn:  func(_ time.Time, peak float64) { highest = max(highest, peak) },
		limit:  func() float64 { return highest },
	}
}

// The Vertical Pod Autoscaler's histogram (its recommender's documentation): buckets that grow by 5 %, weights that halve
// in 24 hours, of the peaks of windows; its target is the 90th percentile plus a margin of 15 %.
const (
	vpaGrowth   = 1.05
	vpaHalfLife = 24 * time.Hour
	vpaQuantile = 0.9
	vpaFirst    = 1e-3 // end of the first bucket, in the data's unit
	vpaBuckets  = 1024
)

// newVPA gives the 90th percentile of the decaying histogram of window peaks plus 15 %.
func newVPA(window time.Duration) usageMethod {
	weights := make([]float64, vpaBuckets)
	var newest time.Time
	learn := func(at time.Time, peak float64) {
		if !newest.IsZero() {
			decay := math.Exp2(-float64(at.Sub(newest)) / float64(vpaHalfLife))
			for i := range weights {
				weights[i] *= decay
			}
		}
		newest = at
		weights[vpaBucket(peak)]++
	}
	return &windowed{window: window, learn: learn, limit: func() float64 { return vpaPercentile(weights) }}
}

func vpaBucket(v float64) int {
	if v <= vpaFirst {
		return 0
	}
	return min(int(math.Ceil(math.Log(v/vpaFirst)/math.Log(vpaGrowth))), vpaBuckets-1)
}

// vpaPercentile is the end of the bucket in which the weight reaches the quantile.
func vpaPercentile(weights []float64) float64 {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	sum := 0.0
	for i, w := range weights {
		if sum += w; w > 0 && sum >= vpaQuantile*total {
			return vpaFirst * math.Pow(vpaGrowth, float64(i))
		}
	}
	return 0
}
