package estimate

import "math"

// State is what a Calibrator has learned, to be kept and given to Restore.
// Scores holds, for each class and then each bucket, the scores from oldest to newest.
type State struct {
	Margins []float64
	Scores  [][]float32
}

// State returns a copy of what c has learned.
func (c *Calibrator) State() State {
	var s State
	for class := range c.pools {
		s.Margins = append(s.Margins, c.margin[class])
		for b := range c.pools[class] {
			s.Scores = append(s.Scores, c.pools[class][b].oldestFirst())
		}
	}
	return s
}

// Restore makes c know what s says, as far as it makes sense: values that no
// Calibrator can have learned are left out.
func (c *Calibrator) Restore(s State) {
	c.pools = [classes][buckets]scores{}
	c.margin = [classes]float64{}
	for class, m := range s.Margins {
		if class < len(c.margin) && m >= 0 && m <= marginBound(Class(class)) {
			c.margin[class] = m
		}
	}
	for i, pool := range s.Scores {
		if i >= int(classes)*buckets {
			break
		}
		for _, x := range pool {
			if f := float64(x); !math.IsNaN(f) && !math.IsInf(f, 0) {
				c.pools[i/buckets][i%buckets].add(x)
			}
		}
	}
}
