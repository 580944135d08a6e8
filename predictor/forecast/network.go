package forecast

import "math"

const (
	hidden     = 16
	components = 3
	outputs    = 3 * components
	inputs     = features + 1 // a constant one
	weights    = hidden*inputs + outputs*(inputs+hidden)
)

// network maps the description of a series to the distribution of the logarithm of the next window's peak, relative to
// the last one's: a mixture of logistic distributions (a mixture density network, Bishop 1994, with a linear path beside
// the hidden layer).
type network struct {
	w [weights]float32
}

// mixture is such a distribution.
type mixture struct {
	share, at, wide [components]float64
}

// forward computes the mixture; h and out hold what learning needs.
func (n *network) forward(x *[features]float32, h *[hidden]float32, out *[outputs]float32) {
	k := 0
	for i := range h {
		row := n.w[k : k+inputs]
		sum := row[features]
		for j, v := range x {
			sum += row[j] * v
		}
		h[i] = tanh(sum)
		k += inputs
	}
	for o := range out {
		row := n.w[k : k+inputs+hidden]
		sum := row[features]
		for j, v := range x {
			sum += row[j] * v
		}
		for j, v := range h {
			sum += row[inputs+j] * v
		}
		out[o] = sum
		k += inputs + hidden
	}
}

func tanh(v float32) float32 { return float32(math.Tanh(float64(v))) }

const (
	narrowest = -6.5 // logarithm of the least width
	widest    = 0.7
)

// anchors are the features that the components' places are relative to: highest peak of three windows, of fourteen, of all.
var anchors = [components]int{2, 3, 4}

// mix turns the network's outputs to a mixture.
func mix(x *[features]float32, out *[outputs]float32) mixture {
	var m mixture
	highest := max(out[0], out[1], out[2])
	total := 0.0
	for i := range components {
		m.share[i] = math.Exp(float64(out[i] - highest))
		total += m.share[i]
		m.at[i] = float64(out[components+i] + x[anchors[i]])
		m.wide[i] = math.Exp(narrowest + (widest-narrowest)*logistic(float64(out[2*components+i])))
	}
	for i := range m.share {
		m.share[i] /= total
	}
	return m
}

// above is the probability that the peak is above y.
func (m *mixture) above(y float64) float64 {
	p := 0.0
	for i := range components {
		p += m.share[i] * logistic((m.at[i]-y)/m.wide[i])
	}
	return p
}

func logistic(v float64) float64 {
	if v < -500 {
		return 0
	}
	return 1 / (1 + math.Exp(-v))
}

// mixtures is what each network expects of a series.
func mixtures(nets []network, x *[features]float32) []mixture {
	all := make([]mixture, len(nets))
	for i := range nets {
		var h [hidden]float32
		var out [outputs]float32
		nets[i].forward(x, &h, &out)
		all[i] = mix(x, &out)
	}
	return all
}

// above is the probability that the peak is above y, the mean of all.
func above(all []mixture, y float64) float64 {
	p := 0.0
	for i := range all {
		p += all[i].above(y)
	}
	return p / float64(max(1, len(all)))
}
