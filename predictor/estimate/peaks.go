package estimate

import "math"

// Window is how many of a workload's newest peaks its bound looks at. More
// changes little on the evaluation data (docs/prediction.md) and costs memory
// for each workload.
const Window = 16

// The spread of a workload's peaks, as a standard deviation of their
// logarithms, is shrunk towards priorSpread as if priorWeight more runs had
// been seen. It never exceeds priorSpread: a wild workload's highest peak
// already says so, and stretching the margin as well multiplies the bound.
const (
	priorSpread = 0.2
	priorWeight = 1.0
)

// Peaks is what a bound is made from: the number of runs so far and the
// newest peaks among them (any order, at most Window are used).
type Peaks struct {
	Runs   int
	Newest []float32
}

// base returns the logarithm of the highest recent peak, and the shrunk spread.
// Peaks under floor count as floor: below it, ratios mean nothing.
func (p Peaks) base(floor float64) (top, spread float64) {
	n := min(len(p.Newest), Window)
	top = math.Inf(-1)
	var sum, squares float64
	for _, v := range p.Newest[:n] {
		l := logPeak(float64(v), floor)
		top = max(top, l)
		sum += l
	}
	mean := sum / float64(n)
	for _, v := range p.Newest[:n] {
		d := logPeak(float64(v), floor) - mean
		squares += d * d
	}
	variance := (priorWeight*priorSpread*priorSpread + squares) / (priorWeight + float64(n-1))
	return top, min(priorSpread, math.Sqrt(variance))
}

func logPeak(v, floor float64) float64 {
	if !(v > floor) { // NaN as well
		v = floor
	}
	return math.Log(min(v, math.MaxFloat32))
}
