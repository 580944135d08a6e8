package eval

import (
	"math"
	"time"
)

// baselines are the methods that every table shows beside ours.
func baselines() map[string]limiter {
	return map[string]limiter{
		"max_past_15": &maxPast{highest: make(map[string]float64)},
		"vpa":         &recommender{of: make(map[string]*peakHistogram)},
		"request":     request{},
	}
}

// margin is what the baselines add.
const margin = 1.15

// request gives what the user asked for.
type request struct{}

func (request) Limit(r *taskRun, _ int) float64 { return unlimited(r) }
func (request) Ended(*taskRun, int)             {}

// maxPast gives the highest peak of the workload so far and 15 %; a first run what was asked for.
type maxPast struct{ highest map[string]float64 }

func (m *maxPast) Limit(r *taskRun, _ int) float64 {
	if top := m.highest[r.workload]; top > 0 {
		return margin * top
	}
	return unlimited(r)
}

func (m *maxPast) Ended(r *taskRun, _ int) {
	m.highest[r.workload] = max(m.highest[r.workload], r.peak)
}

// recommender gives the 90 % quantile of the workload's peaks in a histogram that halves each day, and 15 %, as the Kubernetes
// Vertical Pod Autoscaler's recommender does for memory; a first run what was asked for.
type recommender struct{ of map[string]*peakHistogram }

func (v *recommender) Limit(r *taskRun, _ int) float64 {
	if h := v.of[r.workload]; h != nil {
		return margin * h.quantile(0.9)
	}
	return unlimited(r)
}

func (v *recommender) Ended(r *taskRun, _ int) {
	h := v.of[r.workload]
	if h == nil {
		h = &peakHistogram{first: r.end}
		v.of[r.workload] = h
	}
	h.add(r.peak, r.end)
}

// The VPA's histogram of memory: buckets from 10 MB that grow by 5 % up to about 1 TB, a half-life of a day.
const (
	firstBucket  = 1e7
	bucketGrowth = 1.05
	lastBucket   = 175
	halfLife     = 24 * time.Hour
)

// peakHistogram weighs each peak by its age.
type peakHistogram struct {
	first  time.Time
	weight [lastBucket + 1]float64
}

// add weighs later samples more instead of earlier ones less.
func (h *peakHistogram) add(peak float64, at time.Time) {
	h.weight[bucketOf(peak)] += math.Exp2(min(float64(at.Sub(h.first))/float64(halfLife), 1000))
}

// bucketOf finds the bucket of a peak: bucket n begins at firstBucket·(growth^n − 1)/(growth − 1).
func bucketOf(peak float64) int {
	if peak < firstBucket {
		return 0
	}
	return min(int(math.Log(peak*(bucketGrowth-1)/firstBucket+1)/math.Log(bucketGrowth)), lastBucket)
}

// quantile is the end of the bucket in which the quantile lies.
func (h *peakHistogram) quantile(q float64) float64 {
	total := 0.0
	for _, w := range h.weight {
		total += w
	}
	sum, n := 0.0, 0
	for n = range h.weight {
		if sum += h.weight[n]; sum >= q*total {
			break
		}
	}
	return firstBucket * (math.Pow(bucketGrowth, float64(n+1)) - 1) / (bucketGrowth - 1)
}
