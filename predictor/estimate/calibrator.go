package estimate

import "math"

// Class says how closely the history a bound is made from matches the run it
// is made for. Scores of different classes are never mixed.
type Class uint8

// The classes. Exact is the workload's own history. The others serve a
// workload's first run: Executable from runs of the same binary under other
// command lines, Node from first runs of all programs on the node. Runs of other
// programs of the same repository or user were tried as well: on the evaluation data
// (docs/prediction.md) their ratios spread so widely that the bound meant nothing.
const (
	Exact Class = iota
	Executable
	Node
	classes
)

// buckets divides Exact by the number of runs: 1, 2, 3-4, 5-8, 9-16, more.
const buckets = 6

func bucket(c Class, runs int) int {
	if c != Exact {
		return 0
	}
	b := 0
	for most := 1; b < buckets-1 && runs > most; most *= 2 {
		b++
	}
	return b
}

const (
	// enough is how many scores a bound wants. A bucket with fewer borrows
	// those of workloads with fewer runs, whose scores are larger, not smaller.
	enough = 400
	// defaultFactor is what a peak may exceed the highest earlier one by while
	// there are too few scores to know better: by four at full spread.
	defaultFactor = 4
	// rounding is more than logarithms and 32-bit scores lose: a run like the ones
	// before must not exceed a bound equal to their peak.
	rounding = 1e-5
	// step is how far one run above its bound raises the margin, in spreads.
	step = 0.3
	// A long series of surprises must not ruin the bound for good. First runs
	// have no history of their own to be surprised by.
	maxMargin      = 25
	maxMarginFirst = 5
)

// origin returns what peaks are measured from, as a logarithm, and in which
// unit: from the highest recent peak where the history is of the same code. The last
// programs on a node say nothing about how high the next one's peak is relative to
// theirs; there, first runs are compared as they are.
func (c *Calibrator) origin(class Class, p Peaks) (top, spread float64) {
	if class == Node {
		return math.Log(c.floor), priorSpread
	}
	return p.base(c.floor)
}

func marginBound(class Class) float64 {
	if class == Exact {
		return maxMargin
	}
	return maxMarginFirst
}

// Calibrator turns a workload's earlier peaks into an upper bound for its next
// one, for one kind of peak (memory, CPU or PIDs). The zero value is not
// usable; see NewCalibrator.
//
// A run's score is how far the logarithm of its peak was above the highest
// recent peak of its workload, in spreads of that workload. The bound is the
// highest recent peak plus the conformal quantile of the scores of all
// workloads with as many runs, plus a margin that grows with each run above
// its bound and decays with each below (quantile tracking as in conformal PID
// control: Angelopoulos, Candès, Tibshirani 2023), so that the asked coverage also
// holds where runs are not exchangeable.
type Calibrator struct {
	floor    float64
	coverage float64
	pools    [classes][buckets]scores
	margin   [classes]float64
}

// NewCalibrator returns a calibrator that knows nothing. Peaks below floor are
// treated as floor. Coverage is the share of runs to stay under their bound, in (0, 1).
func NewCalibrator(floor, coverage float64) *Calibrator {
	return &Calibrator{floor: floor, coverage: coverage}
}

// Bound is an upper bound and what it was made from.
type Bound struct {
	Value  float64 // 0: nothing can be said
	Scores int     // pooled scores that were used
	Few    bool    // too few for the coverage: the default factor holds as well
}

// Bound returns the bound for the next run after p.
func (c *Calibrator) Bound(class Class, p Peaks) Bound {
	if p.Runs < 1 || len(p.Newest) == 0 || class >= classes {
		return Bound{}
	}
	top, spread := c.origin(class, p)
	q, n, few := c.quantile(class, bucket(class, p.Runs))
	if n == 0 && class == Node {
		return Bound{}
	}
	return Bound{Value: math.Exp(top+spread*(q+c.margin[class])) * (1 + rounding), Scores: n, Few: few}
}

// quantile is the split-conformal quantile with its finite-sample correction:
// the ceil((n+1)·coverage)-th smallest of n scores, where n allows that.
func (c *Calibrator) quantile(class Class, b int) (q float64, n int, isFew bool) {
	var store [buckets]*scores
	pools := store[:0]
	for ; b >= 0 && n < enough; b-- {
		pools = append(pools, &c.pools[class][b])
		n += len(c.pools[class][b].sorted)
	}
	rank := int(math.Ceil(float64(n+1)*c.coverage - 1e-9))
	if rank > n {
		return few(class, pools, n), n, true
	}
	return max(0, nthLargest(pools, n+1-rank)), n, false
}

// few is the quantile while there are too few scores: the highest of them, and no less than
// the default factor, which where first runs are compared comes on top.
func few(class Class, pools []*scores, n int) float64 {
	q := math.Log(defaultFactor) / priorSpread
	switch {
	case n == 0:
		return q
	case class == Node:
		return q + nthLargest(pools, 1)
	}
	return max(q, nthLargest(pools, 1))
}

// Learn tells the calibrator the peak of a run that followed p, where p is
// what was known when that run began.
func (c *Calibrator) Learn(class Class, p Peaks, peak float64) {
	if p.Runs < 1 || len(p.Newest) == 0 || class >= classes {
		return
	}
	top, spread := c.origin(class, p)
	actual := logPeak(peak, c.floor)
	if bound := c.Bound(class, p); bound.Value > 0 {
		missed := 0.0
		if actual > math.Log(bound.Value) {
			missed = 1
		}
		m := c.margin[class] + step*(missed-(1-c.coverage))
		c.margin[class] = min(max(0, m), marginBound(class))
	}
	c.pools[class][bucket(class, p.Runs)].add(float32((actual - top) / spread))
}
