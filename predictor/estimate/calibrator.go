package estimate

import (
	"math"

	"forefend.dev/forefend/runtime/workload"
)

const (
	// above is how many scores above its quantile a bound of a workload with history wants. A pool with
	// fewer borrows those of workloads with fewer runs, whose scores are larger, not smaller.
	above = 8
	// defaultFactor is what an unknown workload's peak may exceed the highest earlier first
	// run by while there are too few of them to know better.
	defaultFactor = 4
	// rounding is more than logarithms and 32-bit scores lose: a run like the ones
	// before must not exceed a bound equal to their peak.
	rounding = 1e-5
	// rate is how fast the level follows what is reached, and drift how far it may go.
	rate  = 0.002
	drift = 8
	// mostAlpha bounds the level: a bound says something.
	mostAlpha = 0.2
)

// Calibrator turns origins into upper bounds for a run's peak, for one kind of
// peak (memory, CPU, …). The zero value is not usable; see NewCalibrator.
//
// The bound is the split-conformal quantile of the scores of runs with an origin of the same pool
// (Vovk, Gammerman, Shafer 2005), mixed with a seed while they are few. The level of the quantile
// is not the one asked for but follows from it by adaptive conformal inference (Gibbs, Candès 2021):
// each run with history that ends above its bound makes bounds a little more careful and each below a little less,
// so that the asked share of them stays below also where runs are not exchangeable. Runs that began together share
// what was known then; therefore learning uses the origins that were given at the start.
type Calibrator struct {
	slack float64
	asked float64 // probability to exceed the bound
	alpha float64 // at which quantiles are taken to reach it
	pools [pools]scores
}

// NewCalibrator returns a calibrator that knows nothing. Slack is the difference between two peaks, in their
// unit, that does not matter. Coverage is the share of runs to stay under their bound, in (0, 1).
func NewCalibrator(slack, coverage float64) *Calibrator {
	return &Calibrator{slack: slack, asked: 1 - coverage, alpha: min(1-coverage, mostAlpha)}
}

// Bound is an upper bound and what it was made from.
type Bound struct {
	Value  float64 // 0: nothing can be said
	Scores int     // pooled scores that were used
	By     Pool    // whose origin gives the bound
}

// Bound returns the least of the bounds that origins give. With several, each takes its portion of the
// risk, so that all of them hold together. Most bounds it further where it is above 0: what the
// user asked for is a limit that no run exceeds.
func (c *Calibrator) Bound(origins []workload.Origin, most float64) Bound {
	best, risk := Bound{}, c.risk(origins)
	for _, o := range origins {
		if !sensible(o) {
			continue
		}
		q, n, ok := c.quantile(Pool(o.Pool), risk*portion(Pool(o.Pool), origins))
		v := c.exp(o.Center+o.Scale*q) * (1 + rounding)
		if ok && v > 0 && !math.IsInf(v, 0) && (best.Value == 0 || v < best.Value) {
			best = Bound{Value: v, Scores: n, By: Pool(o.Pool)}
		}
	}
	if most > 0 && best.Value > most {
		best.Value = most
	}
	return best
}

// risk is what all origins together may take. That of first runs and of those after one to four is never more than what was
// asked for, however many runs stayed below their bounds: when one of them fails, it costs all that it asked for, and a dozen like
// it have begun.
func (c *Calibrator) risk(origins []workload.Origin) float64 {
	if levelled(origins) {
		return c.alpha
	}
	return min(c.alpha, c.asked)
}

// levelled tells whether origins are those of a run with more history than that.
func levelled(origins []workload.Origin) bool {
	return len(origins) == 1 && Pool(origins[0].Pool) > fewPool && Pool(origins[0].Pool) < ownPools
}

// portion is the share of the risk that an origin of a pool takes among origins. A request takes none beside others: it would
// lower a bound by a quarter at most, they lower it by orders of magnitude.
func portion(p Pool, origins []workload.Origin) float64 {
	others := 0.0
	for _, o := range origins {
		if Pool(o.Pool) != PoolAsked {
			others++
		}
	}
	switch {
	case others == 0:
		return 1
	case p == PoolAsked:
		return 0
	}
	return 1 / others
}

// quantile is what a run of a pool exceeds with probability alpha, and from how many scores that
// is known. ok is false when nothing can be said.
func (c *Calibrator) quantile(p Pool, alpha float64) (q float64, n int, ok bool) {
	var store [ownPools]*scores
	used := append(store[:0], &c.pools[p])
	n = len(c.pools[p].sorted)
	for less := p; less > PoolOwn && less < ownPools && float64(n)*c.asked < above; less-- {
		used = append(used, &c.pools[less-1])
		n += len(c.pools[less-1].sorted)
	}
	if p == PoolUnknown {
		return c.unknown(used, n, alpha)
	}
	s := seed(p, alpha)
	if n == 0 {
		return s, 0, true
	}
	u := upper(used, n, alpha)
	if p == PoolAsked { // a first run that fails costs all it asked for: others that asked for too much are no proof
		return max(s, u), n, true
	}
	w := float64(n) / float64(n+seedWeight)
	return w*u + (1-w)*s, n, true
}

// upper is the ceil((n+1)(1-alpha))-th smallest of n scores, the largest where n is too small for that.
func upper(pools []*scores, n int, alpha float64) float64 {
	rank := int(math.Ceil(float64(n+1)*(1-alpha) - 1e-9))
	return nthLargest(pools, max(1, n+1-rank))
}

// unknown has no seed: before a first run was seen, nothing can be said.
func (c *Calibrator) unknown(used []*scores, n int, alpha float64) (float64, int, bool) {
	if n == 0 {
		return 0, 0, false
	}
	q := upper(used, n, alpha)
	if alpha*float64(n+1) < 1 {
		q += math.Log(defaultFactor)
	}
	return q, n, true
}

// Learn tells the calibrator the peak of a run, and the origins and the bound that were
// given when it began. A bound of 0 was none. Before is how many runs of the workload had ended before it did: where
// many first runs of one workload go on at once, they are told from one origin, and only some of
// them count (the first, the second, the fourth, …), so that one workload does not pass for all.
func (c *Calibrator) Learn(origins []workload.Origin, bound, peak float64, before int) {
	if !(peak > 0) || math.IsInf(peak, 0) {
		return
	}
	actual := c.log(peak)
	for i, o := range origins {
		counts := Pool(o.Pool) < ownPools || before&(before+1) == 0
		if i < workload.MaxOrigins && sensible(o) && counts {
			c.pools[o.Pool].add(float32((actual - o.Center) / o.Scale))
		}
	}
	if !(bound > 0) || !levelled(origins) { // runs that are bounded with care would make the level loose for others
		return
	}
	missed := 0.0
	if peak > bound {
		missed = 1
	}
	c.alpha += rate * (c.asked - missed)
	c.alpha = min(max(c.alpha, c.asked/drift), c.asked*drift, mostAlpha)
}
