package estimate

// MissingMass bounds from above the probability that the next run does
// something that none of n earlier runs did, where loners is how many of the n
// did something that no other of them did. It is 1 when n is 0.
//
// It is Good's estimate for runs instead of single observations (I. J. Good,
// "The population frequencies of species and the estimation of population
// parameters", Biometrika 40, 1953; for incidence data A. Chao et al., Ecological
// Monographs 84, 2014) with the correction that makes it an upper bound for few runs:
// if runs are exchangeable, the next one is as likely as each of the n+1 to be a
// loner among the n+1. The next run makes at most one loner more than there were, so
// the probability is at most (E[loners]+1)/(n+1), whatever the distribution.
// Counting runs that did something alone instead of things done once keeps one odd
// run with ten odd calls from weighing as much as ten odd runs.
//
// Four runs that did the same give (0+1)/(4+1) = 0.2.
func MissingMass(n, loners int) float64 {
	if n < 1 {
		return 1
	}
	return float64(min(max(loners, 0), n)+1) / float64(n+1)
}
