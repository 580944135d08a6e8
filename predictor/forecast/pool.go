package forecast

import "math"

const (
	population = 2048 // outlooks that the price is found on
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
	met     float64 // violations, and how many were expected; both fade
	feared  float64
	over    float64 // of peaks at a nominal ceiling, the 98th percentile as a share of it

	price      float64
	correction correction
	stale      int // outlooks and outcomes since price was found
}

const (
	// caution is how much of the allowed violations is left out of the plan, but no more than most: a promise should be
	// kept, not met on average.
	caution, most = 0.20, 0.0020
	// repay is the number of windows in which a debt is meant to be repaid, floor the least share of the promise that is
	// planned for meanwhile: bounds for the last few in a thousand cost the most.
	repay, floor = 3000.0, 0.4
	// doubt is how many windows of the node the networks' own word is worth.
	doubt = 250.0
)

func newPool(share float64, w [][]float32) *pool {
	p := &pool{share: share, over: 1, nets: make([]network, len(w)), correction: newCorrection(nil, doubt)}
	for i := range w {
		copy(p.nets[i].w[:], w[i])
	}
	return p
}

// maxOvershoot is from where a nominal ceiling is simply wrong.
const maxOvershoot = 1.2

// overshoot learns by how much peaks at a nominal ceiling exceed it.
func (p *pool) overshoot(ratio float64) {
	if ratio < 0.97 || ratio > maxOvershoot {
		return
	}
	const step, quantile = 0.01, 0.98
	if ratio > p.over {
		p.over += step * quantile
	} else {
		p.over = max(1, p.over-step*(1-quantile))
	}
}

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

func (p *pool) bound(o *outlook) (bound, risk float64) {
	if p.stale > len(p.recent)/16 || p.price == 0 {
		p.reprice()
	}
	return o.choose(p.price)
}

func (p *pool) planned() float64 { return p.share - min(caution*p.share, most) }

// target is the share of violations to plan for, given how many there were.
func (p *pool) target() float64 {
	return min(max(p.planned()-p.debt/repay, p.share*floor), 2*p.share)
}

// optimism is how many violations there were for each that was expected. Bounds are chosen where they seem cheap, which
// is more often where their risk was underrated; the correction, made from all windows alike, does not see that.
func (p *pool) optimism() float64 {
	return min(max((p.met+steady)/(p.feared+steady), 0.5), 2)
}

const (
	fade   = 4000 // windows in which violations fade
	steady = 14   // violations that must speak against the networks to be believed half
)

// reprice finds the price of a violation at which the share of windows above their bounds is the target: the Lagrange
// multiplier of the least sum of bounds under that constraint.
func (p *pool) reprice() {
	p.stale = 0
	p.correction = newCorrection(p.ranks, doubt)
	mean := 0.0
	for i := range p.recent {
		p.recent[i].correct(&p.correction)
		mean += p.recent[i].Size / float64(len(p.recent))
	}
	low, high := math.Log(max(mean, tiny)*1e-3), math.Log(max(mean, tiny)*1e6)
	want := p.target() / p.optimism()
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
func (p *pool) learn(e *Example, bound, risk, peak float64) {
	var x [features]float32
	copy(x[:], e.X)
	p.rank(float32(above(mixtures(p.nets, &x), e.Y)))
	met := 0.0
	if peak > bound {
		met = 1
	}
	p.met += met - p.met/fade
	p.feared += risk - p.feared/fade
	p.debt = min(max(p.debt+met-p.planned(), -maxSurplus), maxDebt)
	p.windows++
	p.stale++
}

// The debt's bounds: what is beyond is forgiven, as a node that was long calm or long in trouble must still adapt. A
// surplus is spent within a few windows, all at the same time; hence so little of it.
const maxDebt, maxSurplus = 40, 8

func (p *pool) rank(r float32) {
	if len(p.ranks) < memory {
		p.ranks = append(p.ranks, r)
		return
	}
	p.ranks[p.oldest] = r
	p.oldest = (p.oldest + 1) % memory
}
