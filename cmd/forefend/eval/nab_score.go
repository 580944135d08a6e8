package eval

import "math"

// Weights of NAB's standard profile.
const (
	nabTrue  = 1.0
	nabFalse = 0.11
	nabMiss  = 1.0
)

// NAB's probation: the first part of a file, in which nothing counts.
const (
	nabProbation     = 0.15
	nabProbationMost = 750
)

// nabPoint is one step after the probation.
type nabPoint struct {
	score  float64 // of the detector
	gain   float64 // of an alarm here
	window string  // "" outside of all
}

// nabSigmoid is NAB's score of an alarm at a place relative to a window: -1 its first step, 0 its last, 1 one length behind
// it, where it approaches -1.
func nabSigmoid(place float64) float64 {
	if place > 3 {
		return -1
	}
	return 2/(1+math.Exp(5*place)) - 1
}

// points says what an alarm at each step would be worth (Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms",
// 2015): in a window the earlier the better, outside the cheaper the closer behind one.
func (f *nabFile) points(scores []float64) []nabPoint {
	probation := int(min(math.Floor(nabProbation*float64(len(scores))), nabProbationMost))
	var points []nabPoint
	next, in := 0, false
	last, length := -1, 0.0 // step and length of the window before
	for i := range scores {
		if !in && next < len(f.windows) && f.windows[next].first == i {
			in = true
		}
		p := nabPoint{score: scores[i]}
		if in {
			w := f.windows[next]
			p.window = f.name + "|" + w.name
			p.gain = nabTrue * nabSigmoid(-float64(w.last-i+1)/float64(w.last-w.first+1)) / nabSigmoid(-1)
		} else {
			p.gain = -nabFalse
			if last >= 0 && length > 1 {
				p.gain = nabFalse * nabSigmoid(float64(i-last)/(length-1))
			}
		}
		if i >= probation {
			points = append(points, p)
		}
		if in && f.windows[next].last == i {
			last, length = i, float64(i-f.windows[next].first+1)
			next++
			in = false
		}
	}
	return points
}

// nabTotal is the raw score: of each window the best alarm, or the price of missing it, and all false alarms.
func nabTotal(points []nabPoint, threshold float64) float64 {
	best := make(map[string]float64)
	var order []string // sums of floats depend on their order
	total := 0.0
	for _, p := range points {
		if _, ok := best[p.window]; !ok && p.window != "" {
			best[p.window] = -nabMiss
			order = append(order, p.window)
		}
		switch {
		case p.score < threshold:
		case p.window == "":
			total += p.gain
		default:
			best[p.window] = max(best[p.window], p.gain)
		}
	}
	for _, w := range order {
		total += best[w]
	}
	return total
}

// nabNormal puts a raw score between that of a detector without alarms, 0, and the perfect one, 100. NaN without a window.
func nabNormal(points []nabPoint, threshold float64, windows int) float64 {
	null := nabTotal(points, math.Inf(1))
	return 100 * (nabTotal(points, threshold) - null) / (nabTrue*float64(windows) - null)
}
