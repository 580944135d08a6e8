package estimate

import "math"

// Window is how many of a workload's newest peaks its spread is made from. For the
// highest peak, Older more are looked at: one for each Window runs before.
const (
	Window = 16
	Older  = 3
)

// Peaks is what a workload's own bound is made from: the number of runs so far, the newest
// peaks among them, at most Window, and the highest of each Window before those, in any order.
type Peaks struct {
	Runs   int
	Newest []float32
	Older  []float32
	// Lasted is how long the longest of the runs went on, in seconds; 0: not known.
	Lasted float64
}

// The first few runs tell little when none of them went on for briefly seconds: they show how a program begins, not what it does
// with real work. Where many runs begin together, the brief ones end first, and all others are told from them.
const (
	briefly   = 2.0
	briefRuns = 4
)

// brief reports whether so little is known of a workload.
func (p Peaks) brief() bool { return p.Runs <= briefRuns && p.Lasted > 0 && p.Lasted < briefly }

// Constants of the spread of a workload's peaks: the standard deviation of their logarithms
// is shrunk towards priorSpread as if priorWeight more runs had been seen. It never exceeds
// mostSpread: a wild workload's highest peak already says so, and stretching the margin as
// well multiplies the bound. After brief runs it is at least briefSpread.
const (
	priorSpread = 0.25
	priorWeight = 1.0
	mostSpread  = 1.5 * priorSpread
	briefSpread = 2 * priorSpread
)

// base returns the highest recent peak and the shrunk spread, both of logarithms.
func (c *Calibrator) base(p Peaks) (top, spread float64) {
	n := min(len(p.Newest), Window)
	top = math.Inf(-1)
	var sum, squares float64
	for _, v := range p.Newest[:n] {
		l := c.log(float64(v))
		top = max(top, l)
		sum += l
	}
	mean := sum / float64(n)
	for _, v := range p.Newest[:n] {
		d := c.log(float64(v)) - mean
		squares += d * d
	}
	for _, v := range p.Older {
		top = max(top, c.log(float64(v)))
	}
	variance := (priorWeight*priorSpread*priorSpread + squares) / (priorWeight + float64(n-1))
	return top, min(mostSpread, math.Sqrt(variance))
}

// log is the scale on which peaks are compared: the logarithm of the peak and the slack.
// What is much smaller than the slack is all alike.
func (c *Calibrator) log(v float64) float64 {
	if !(v > 0) { // NaN as well
		v = 0
	}
	return math.Log(min(v, math.MaxFloat32) + c.slack)
}

// exp is the inverse of log, and no less than nothing.
func (c *Calibrator) exp(l float64) float64 { return max(0, math.Exp(l)-c.slack) }
