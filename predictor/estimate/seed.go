package estimate

import "math"

// seedWeight is how many scores a pool has to have for them to count as much as the seed.
const seedWeight = 100

// seeds are the 98 % quantiles of scores that are believed before any is seen. They say
// no more than that one or two runs tell little, that many tell much, and that what
// resembles a workload is a rough guide.
var seeds = [pools]float64{
	PoolOwn: 3, PoolOwn + 1: 2.5, PoolOwn + 2: 2.2, PoolOwn + 3: 1.8, PoolOwn + 4: 1.4, PoolOwn + 5: 0.9, PoolOwn + 6: 0.6,
	PoolProgram: 2, PoolKin: 2.3, PoolScanned: 2.05, PoolBrief: 3,
}

// seed is the quantile of a pool's scores that a run exceeds with probability alpha, before any is
// seen. The tails of scores fall exponentially. Users of what has a limit ask for enough: how
// much less than they asked for is needed is bounded, not its logarithm.
func seed(p Pool, alpha float64) float64 {
	if p == PoolAsked {
		return math.Log(1 - spared*math.Pow(alpha/0.02, 0.25))
	}
	return seeds[p] * math.Log(1/alpha) / math.Log(1/0.02)
}

// spared is the share of a request that 98 % of first runs do not need.
const spared = 0.25
