package forecast

import "math"

// Example is one window with what was known when it began: the network learns from it.
type Example struct {
	X []float32 // description of the series, features long
	Y float64   // logarithm of the window's peak relative to the last window's
	// Capped is set where the peak was at the ceiling: demand may have been higher.
	Capped bool
}

const (
	// grain is the width of the interval in which an outcome counts as met.
	grain = 0.02
	// below is how far under the highest of the last peaks outcomes are no longer told apart: a bound is about high peaks
	// (a censored likelihood score: Diks, Panchenko, van Dijk 2011).
	below = 0.25
)

// interval is what an example says of the outcome: it was above lo and, unless open, not above hi.
func (e *Example) interval() (lo, hi float64, hasLo, hasHi bool) {
	if l := float64(e.X[anchors[1]]) - below; e.Y < l {
		return 0, l, false, true
	}
	return e.Y - grain/2, e.Y + grain/2, true, !e.Capped
}

// gradient adds to g how the weights should move to make the example less likely, and returns minus the logarithm of
// its probability (the logarithmic score of the interval).
func (n *network) gradient(e *Example, g *[weights]float32) float64 {
	var x [features]float32
	copy(x[:], e.X)
	var h [hidden]float32
	var out [outputs]float32
	n.forward(&x, &h, &out)
	m := mix(&x, &out)
	lo, hi, hasLo, hasHi := e.interval()
	var part, dAt, dWide [components]float64
	p := 0.0
	for i := range components {
		fill := func(y, sign float64) {
			u := (m.at[i] - y) / m.wide[i]
			s := logistic(u)
			d := s * (1 - s)
			part[i] += sign * s
			dAt[i] += sign * d / m.wide[i]
			dWide[i] -= sign * d * u
		}
		if hasLo {
			fill(lo, 1)
		} else {
			part[i] = 1
		}
		if hasHi {
			fill(hi, -1)
		}
		p += m.share[i] * part[i]
	}
	const least = 1e-5
	var d [outputs]float32
	k := 1 / (p + least)
	for i := range components {
		d[i] = float32(-k * m.share[i] * (part[i] - p))
		d[components+i] = float32(-k * m.share[i] * dAt[i])
		s := logistic(float64(out[2*components+i]))
		d[2*components+i] = float32(-k * m.share[i] * dWide[i] * (widest - narrowest) * s * (1 - s))
	}
	n.backward(&x, &h, &d, g)
	return -math.Log(p + least)
}

// backward adds to g the gradient of the weights, from that of the outputs.
func (n *network) backward(x *[features]float32, h *[hidden]float32, d *[outputs]float32, g *[weights]float32) {
	var dh [hidden]float32
	k := hidden * inputs
	for _, v := range d {
		row, grow := n.w[k:k+inputs+hidden], g[k:k+inputs+hidden]
		for j, xv := range x {
			grow[j] += v * xv
		}
		grow[features] += v
		for j, hv := range h {
			grow[inputs+j] += v * hv
			dh[j] += v * row[inputs+j]
		}
		k += inputs + hidden
	}
	k = 0
	for i, v := range dh {
		v *= 1 - h[i]*h[i]
		grow := g[k : k+inputs]
		for j, xv := range x {
			grow[j] += v * xv
		}
		grow[features] += v
		k += inputs
	}
}
