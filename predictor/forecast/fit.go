package forecast

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Fit trains a network on groups of examples, each group weighing the same whatever its size, and returns its weights:
// what Config.Weights takes. It is deterministic for a seed. Adam (Kingma, Ba 2015) with weight decay; passes is how often the
// average example is seen.
func Fit(groups [][]Example, passes int, seed uint64) []float32 {
	groups = slices.DeleteFunc(slices.Clone(groups), func(g []Example) bool { return len(g) == 0 })
	random := rand.New(rand.NewPCG(seed, 1))
	var n network
	n.scatter(random)
	total := 0
	for _, g := range groups {
		total += len(g)
	}
	if total == 0 {
		return n.w[:]
	}
	const batch = 32
	a := &adam{}
	rounds := passes * total / batch
	for r := range rounds {
		var g [weights]float32
		for range batch {
			group := groups[random.IntN(len(groups))]
			n.gradient(&group[random.IntN(len(group))], &g)
		}
		rate := 0.004 * (0.02 + 0.98*0.5*(1+math.Cos(math.Pi*float64(r)/float64(rounds))))
		a.step(&n, &g, batch, rate)
	}
	return n.w[:]
}

// scatter sets the weights where learning can start: components a little apart, hidden units different.
func (n *network) scatter(random *rand.Rand) {
	for i := range n.w[:hidden*inputs] {
		n.w[i] = float32(random.NormFloat64() * 0.15)
	}
	at := func(o int) *float32 { return &n.w[hidden*inputs+o*(inputs+hidden)+features] }
	for i, v := range []float32{1, 0, -1, 0, 0, 0.2, -0.5, 0.3, 1} {
		*at(i) = v
	}
}

type adam struct {
	m, v [weights]float32
	t    int
}

func (a *adam) step(n *network, g *[weights]float32, batch int, rate float64) {
	const b1, b2, decay = 0.9, 0.99, 0.1
	a.t++
	c1, c2 := 1-math.Pow(b1, float64(a.t)), 1-math.Pow(b2, float64(a.t))
	size := rate * math.Sqrt(c2) / c1
	for i := range n.w {
		d := g[i] / float32(batch)
		a.m[i] = b1*a.m[i] + (1-b1)*d
		a.v[i] = b2*a.v[i] + (1-b2)*d*d
		n.w[i] -= float32(size)*a.m[i]/(float32(math.Sqrt(float64(a.v[i])))+1e-6) + float32(rate*decay)*n.w[i]
	}
}
