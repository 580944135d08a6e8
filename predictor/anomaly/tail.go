package anomaly

import (
	"math"
	"slices"
)

// PerHour is the number of false alarms per container-hour that every detector of this package allows itself.
const PerHour = 1.0

// Bounds of a Tail.
const (
	tailKept    = 256  // largest scores kept
	tailFitted  = 24   // of those, the ones the tail is fitted to
	maxShape    = 0.35 // of the generalised Pareto distribution; more would put the threshold out of reach
	tailMinimum = 1e-9
)

// Tail estimates from scores of normal behaviour the score that it exceeds at a given rate. It fits a generalised
// Pareto distribution to the largest ones (peaks over threshold: Pickands 1975; its use for alarms: Siffer et al.,
// "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017) by the method of moments (Hosking and Wallis 1987), with the
// shape held between an exponential tail and maxShape.
//
// Scores must come from a model that had not learned what it scored, and be maxima of spells that do not belong together, so that
// each stands for an alarm of its own.
type Tail struct {
	hours float64
	top   []float64 // ascending
}

// Add counts hours of normal behaviour, and the largest scores of its spells. Values that are no numbers are left out.
func (t *Tail) Add(hours float64, scores ...float64) {
	if hours > 0 && !math.IsInf(hours, 0) {
		t.hours += hours
	}
	for _, s := range scores {
		if math.IsNaN(s) || math.IsInf(s, 0) {
			continue
		}
		if len(t.top) == tailKept {
			if s <= t.top[0] {
				continue
			}
			t.top = t.top[1:]
		}
		i, _ := slices.BinarySearch(t.top, s)
		t.top = slices.Insert(t.top, i, s)
	}
}

// Hours returns how much normal behaviour was seen.
func (t *Tail) Hours() float64 { return t.hours }

// Threshold returns the score that is exceeded perHour times an hour. It is +Inf when nothing was seen, and at least the largest
// score seen when less than 1/perHour hours were.
func (t *Tail) Threshold(perHour float64) float64 {
	n := len(t.top)
	if n == 0 || t.hours <= 0 || perHour <= 0 {
		return math.Inf(1)
	}
	k := min(n-1, tailFitted)
	if k < 1 {
		return t.top[n-1]
	}
	base := t.top[n-1-k]
	mean, square := 0.0, 0.0
	for _, s := range t.top[n-k:] {
		mean += s - base
		square += (s - base) * (s - base)
	}
	mean /= float64(k)
	variance := square/float64(k) - mean*mean
	ratio := float64(k) / (t.hours * perHour) // exceedances of base for each wanted alarm
	if ratio <= 1 {
		return base // alarms are wanted more often than that
	}
	shape := 0.0
	if variance > tailMinimum {
		shape = min(max((1-mean*mean/variance)/2, 0), maxShape)
	}
	scale := mean * (1 - shape)
	above := scale * math.Log(ratio)
	if shape > tailMinimum {
		above = scale / shape * (math.Pow(ratio, shape) - 1)
	}
	threshold := base + above
	if t.hours*perHour < 1 {
		threshold = max(threshold, t.top[n-1])
	}
	return threshold
}
