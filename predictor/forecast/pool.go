package forecast

import "math"

const (
	population = 512  // outlooks that the price is found on
	memory     = 4096 // ranks that the correction is made from
)

// pool is what is learned from all containers of a node about one resource.
type pool struct {
	share   float64   // of windows that may exceed their bound
	nets    []network // what they say is averaged
	recent  []*outlook
	next    int // place of the oldest of recent
	ranks   []float32
	oldest  int     // place of the oldest of ranks
	debt    float64 // violations beyond the promise, repaid by later bounds
	windows int     // ever closed
	over    float64 // highest value seen as a share of the ceiling

	price      float64
	correction correction
	stale      int // outlooks and outcomes since price was found
}

var (
	// caution is how much of the allowed violations is left out of the plan, but no more than most: a promise should be
	// kept, not met on average.
	caution, most = 0.08, 0.0016
	// repay is the number of windows in which a debt is meant to be repaid, floor the least share of the promise that is
	// planned for meanwhile: bounds for the last few in a thousand cost the most.
	repay, floor = 600.0, 0.4
	// doubt is how many windows of the node the networks' own word is worth.
	doubt = 150.0
	// rate is how fast the networks learn from the node's windows.
	rate = 0.0005
)

func newPool(share float64, w [][]float32) *pool {
	p := &pool{share: share, nets: make([]network, len(w)), correction: newCorrection(nil, doubt)}
	for i := range w {
		copy(p.nets[i].w[:], w[i])
	}
	return p
}

func (p *pool) overshoot() float64 { return min(max(p.over*1.002, 1), 1.2) }

func (p *pool) offer(o *outlook) {
	o.correct(&p.correction)
	if len(p.recent) < population {
		p.recent = append(p.recent, o)
	} else {
		p.recent[p.next] = o
		p.next = (p.next + 1) % population
	}
	p.stale++
}

func (p *pool) bound(o *outlook) float64 {
	if p.stale > len(p.recent)/16 || p.price == 0 {
		p.reprice()
	}
	b, _ := o.choose(p.price)
	return b
}

func (p *pool) planned() float64 { return p.share - min(caution*p.share, most) }

// target is the share of violations to plan for, given how many there were.
func (p *pool) target() float64 {
	return min(max(p.planned()-p.debt/repay, p.share*floor), 2*p.share)
}

// reprice finds the price of a violation at which the share of windows above their bounds is the target: the Lagrange
// multiplier of the least sum of bounds under that constraint.
func (p *pool) reprice() {
	p.stale = 0
	p.correction = newCorrection(p.ranks, doubt)
	mean := 0.0
	for i := range p.recent {
		p.recent[i].correct(&p.correction)
		mean += p.recent[i].size / float64(len(p.recent))
	}
	low, high := math.Log(max(mean, tiny)*1e-3), math.Log(max(mean, tiny)*1e6)
	want := p.target()
	for range 24 {
		mid := (low + high) / 2
		if p.expected(math.Exp(mid)) > want {
			low = mid
		} else {
			high = mid
		}
	}
	p.price = math.Exp(high)
}

// expected is the share of recent windows that would exceed their bounds at a price.
func (p *pool) expected(price float64) float64 {
	sum := 0.0
	for i := range p.recent {
		_, risk := p.recent[i].choose(price)
		sum += risk
	}
	return sum / float64(max(1, len(p.recent)))
}

// learn takes the outcome of a window.
func (p *pool) learn(nets []network, e *Example, bound, peak float64) {
	var x [features]float32
	copy(x[:], e.X)
	p.rank(float32(above(mixtures(nets, &x), e.Y)))
	met := 0.0
	if peak > bound {
		met = 1
	}
	p.debt = min(max(p.debt+met-p.planned(), -maxDebt), maxDebt)
	p.windows++
	p.stale++
	if rate > 0 {
		for i := range nets {
			nets[i].descend(e)
		}
	}
}

const maxDebt = 40

// descend moves the weights a little towards the example.
func (n *network) descend(e *Example) {
	var g [weights]float32
	n.gradient(e, &g)
	norm := 0.0
	for _, v := range g {
		norm += float64(v) * float64(v)
	}
	step := float32(rate / max(1, math.Sqrt(norm)/3))
	for i, v := range g {
		n.w[i] -= step * v
	}
}

func (p *pool) rank(r float32) {
	if len(p.ranks) < memory {
		p.ranks = append(p.ranks, r)
		return
	}
	p.ranks[p.oldest] = r
	p.oldest = (p.oldest + 1) % memory
}
