package forecast

import (
	"math"
	"slices"
)

// grid is the bounds that are weighed against each other, as logarithms relative to the last window's peak.
var grid = func() []float64 {
	var g []float64
	for _, r := range []struct{ from, to, step float64 }{
		{-1, -0.3, 0.1}, {-0.3, -0.04, 0.02}, {-0.04, 0.1, 0.005}, {0.1, 0.6, 0.02}, {0.6, 1.6, 0.05}, {1.6, 4, 0.15},
	} {
		for i := 0; r.from+float64(i)*r.step < r.to-1e-9; i++ {
			g = append(g, r.from+float64(i)*r.step)
		}
	}
	return g
}()

// outlook is what the model expects of one window: the probability that its peak is above each bound of the grid.
type outlook struct {
	Size    float64   `json:"size"`    // the last window's peak, which the grid is relative to
	Ceiling float64   `json:"ceiling"` // 0: none
	Above   []float32 `json:"above"`   // as the networks say
	Risk    []float32 `json:"-"`       // corrected
}

func newOutlook(m []mixture, size, ceiling float64) *outlook {
	o := &outlook{Size: size, Ceiling: ceiling, Above: make([]float32, len(grid)), Risk: make([]float32, len(grid))}
	for i, y := range grid {
		o.Above[i] = float32(above(m, y))
	}
	return o
}

// correct applies a correction.
func (o *outlook) correct(c *correction) {
	for i, p := range o.Above {
		o.Risk[i] = float32(c.apply(float64(p)))
	}
}

// choose returns the bound that costs least where a violation costs price, and its probability to be exceeded.
func (o *outlook) choose(price float64) (bound, risk float64) {
	least := math.Inf(1)
	for i := range grid {
		b := o.Size * factors[i]
		r := float64(o.Risk[i])
		if o.Ceiling > 0 && b >= o.Ceiling {
			b, r = o.Ceiling, 0
		}
		if cost := b + price*r; cost < least {
			least, bound, risk = cost, b, r
		}
		if b == o.Ceiling {
			return bound, risk
		}
	}
	if o.Ceiling > 0 && o.Ceiling < least {
		return o.Ceiling, 0
	}
	return bound, risk
}

var factors = func() []float64 {
	f := make([]float64, len(grid))
	for i, y := range grid {
		f[i] = math.Exp(y)
	}
	return f
}()

// correction maps the probabilities that the network gives to those that were met: conformal recalibration on the
// node's own windows (Vovk and others 2017, conformal predictive distributions; Kuleshov and others 2018).
type correction struct {
	to [len(knots)]float64
}

// knots are the probabilities at which the correction is kept; it is linear between.
var knots = [...]float64{0, .0005, .001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1}

// newCorrection learns from ranks, the probabilities that were given to what was then met. Were they right, they would
// be uniform. doubt is how many windows the network's own word is worth.
func newCorrection(ranks []float32, doubt float64) correction {
	var c correction
	sorted := slices.Sorted(slices.Values(ranks))
	n := float64(len(sorted))
	for i, k := range knots {
		below, _ := slices.BinarySearch(sorted, math.Nextafter32(float32(k), 2))
		c.to[i] = (float64(below) + k*doubt) / (n + doubt)
	}
	c.to[0], c.to[len(knots)-1] = 0, 1
	return c
}

func (c *correction) apply(p float64) float64 {
	for i := 1; i < len(knots); i++ {
		if p <= knots[i] {
			share := (p - knots[i-1]) / (knots[i] - knots[i-1])
			return c.to[i-1] + share*(c.to[i]-c.to[i-1])
		}
	}
	return 1
}
