package estimate

import "math"

// Class says how closely the history a bound is made from matches the run it
// is made for. Scores of different classes are never mixed.
type Class uint8

// The classes. Exact is the workload's own history; the others serve a
// workload's first run, from the history of something more general.
const (
	Exact Class = iota
	Executable
	Repository
	User
	Group
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
	// step is how far one run above its bound raises the margin, in spreads.
	step = 0.3
	// maxMargin keeps a long series of surprises from ruining the bound for good.
	maxMargin = 25
)

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
	top, spread := p.base(c.floor)
	q, n, few := c.quantile(class, bucket(class, p.Runs))
	return Bound{Value: math.Exp(top + spread*(q+c.margin[class])), Scores: n, Few: few}
}

// quantile is the split-conformal quantile with its finite-sample correction:
// the ceil((n+1)·coverage)-th smallest of n scores, where n allows that.
func (c *Calibrator) quantile(class Class, b int) (q float64, n int, few bool) {
	var store [buckets]*scores
	pools := store[:0]
	for ; b >= 0 && n < enough; b-- {
		pools = append(pools, &c.pools[class][b])
		n += len(c.pools[class][b].sorted)
	}
	rank := int(math.Ceil(float64(n+1)*c.coverage - 1e-9))
	if rank > n {
		q = math.Log(defaultFactor) / priorSpread
		if n > 0 {
			q = max(q, nthLargest(pools, 1))
		}
		return q, n, true
	}
	return max(0, nthLargest(pools, n+1-rank)), n, false
}

// Learn tells the calibrator the peak of a run that followed p, where p is
// what was known when that run began.
func (c *Calibrator) Learn(class Class, p Peaks, peak float64) {
	bound := c.Bound(class, p)
	if bound.Value == 0 {
		return
	}
	top, spread := p.base(c.floor)
	actual := logPeak(peak, c.floor)
	miss := 0.0
	if actual > math.Log(bound.Value) {
		miss = 1
	}
	m := c.margin[class] + step*(miss-(1-c.coverage))
	c.margin[class] = min(max(0, m), maxMargin)
	c.pools[class][bucket(class, p.Runs)].add(float32((actual - top) / spread))
}
