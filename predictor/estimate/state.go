package estimate

import "math"

// State is what a Calibrator has learned, to be kept and given to Restore.
// Scores holds the scores of each pool from oldest to newest.
type State struct {
	Level  float64 // the probability at which quantiles are taken, in parts of the asked one
	Scores [][]float32
}

// State returns a copy of what c has learned.
func (c *Calibrator) State() State {
	s := State{Level: c.alpha / c.asked}
	for i := range c.pools {
		s.Scores = append(s.Scores, c.pools[i].oldestFirst())
	}
	return s
}

// Restore makes c know what s says, as far as it makes sense: values that no
// Calibrator can have learned are left out.
func (c *Calibrator) Restore(s State) {
	c.pools = [pools]scores{}
	c.alpha = min(c.asked, mostAlpha)
	if s.Level >= 1.0/drift && s.Level <= drift {
		c.alpha = min(c.asked*s.Level, mostAlpha)
	}
	for i, pool := range s.Scores {
		if i >= int(pools) {
			break
		}
		for _, x := range pool {
			if f := float64(x); !math.IsNaN(f) && !math.IsInf(f, 0) {
				c.pools[i].add(x)
			}
		}
	}
}

// adopted is how many scores of a pool another's are worth, so that own ones soon outweigh them.
const adopted = 128

// Adopt takes from s, another calibrator's, a sample of each pool of first runs of which c has no score yet. How far
// workloads with a history go above it is each node's own matter: scores from elsewhere made bounds worse
// (docs/predictor/runs.md).
func (c *Calibrator) Adopt(s State) {
	own := c.State()
	for i := int(PoolProgram); i < len(own.Scores); i++ {
		if len(own.Scores[i]) == 0 && i < len(s.Scores) {
			own.Scores[i] = sample(s.Scores[i], adopted)
		}
	}
	c.Restore(own)
}

// sample returns at most n of values, evenly by age.
func sample(values []float32, n int) []float32 {
	if len(values) <= n {
		return values
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = values[i*len(values)/n]
	}
	return out
}
