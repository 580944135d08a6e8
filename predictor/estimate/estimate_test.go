package estimate

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

func TestScoresKeepTheNewest(t *testing.T) {
	var s scores
	rng := rand.New(rand.NewPCG(1, 2))
	var all []float32
	for range 3*MaxScores + 7 {
		x := float32(rng.IntN(500)) // many equal ones
		s.add(x)
		all = append(all, x)
	}
	newest := all[len(all)-MaxScores:]
	if got := s.oldestFirst(); !slices.Equal(got, newest) {
		t.Error("not the newest, or not in order of age")
	}
	slices.Sort(newest)
	if !slices.Equal(s.sorted, newest) {
		t.Error("the sorted scores are not those kept")
	}
}

func TestNthLargestMergesPools(t *testing.T) {
	var a, b, empty scores
	for _, x := range []float32{1, 5, 3} {
		a.add(x)
	}
	for _, x := range []float32{4, 5, -2} {
		b.add(x)
	}
	var got []float64
	for k := 1; k <= 6; k++ {
		got = append(got, nthLargest([]*scores{&a, &empty, &b}, k))
	}
	if want := []float64{5, 5, 4, 3, 1, -2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestOwnPools(t *testing.T) {
	for runs, want := range map[int]Pool{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 16: 4, 17: 5, 32: 5, 33: 6, 1 << 20: 6} {
		if got := ownPool(runs); got != want {
			t.Errorf("%d runs are in pool %d, want %d", runs, got, want)
		}
	}
	if PoolProgram != ownPools || PoolBrief != 12 || pools != 13 {
		t.Errorf("pools are numbered %d … %d: snapshots hold these numbers", PoolProgram, pools)
	}
}

func peaks(values ...float32) Peaks { return Peaks{Runs: len(values), Newest: values} }

// next is the bound after p from p alone.
func next(c *Calibrator, p Peaks) Bound {
	o, ok := c.Own(p)
	if !ok {
		return Bound{}
	}
	return c.Bound([]workload.Origin{o}, 0)
}

func near(a, b float64) bool { return math.Abs(a-b) <= 0.001*math.Abs(b) }

func TestNothingCanBeSaid(t *testing.T) {
	c := NewCalibrator(1, 0.98)
	for _, p := range []Peaks{{}, {Runs: 3}, {Newest: []float32{1}}} {
		if o, ok := c.Own(p); ok {
			t.Errorf("Own(%v) = %v", p, o)
		}
	}
	_, kin := c.Kin(SameProgram, nil, 1)
	_, kind := c.Kin(affinities, []Peer{{1, 1}}, 1)
	_, asked := c.Asked(0)
	_, scanned := c.Scanned(0, 5)
	_, inverted := c.Scanned(5, 5)
	if kin || kind || asked || scanned || inverted {
		t.Errorf("origins of nothing: %t %t %t %t %t", kin, kind, asked, scanned, inverted)
	}
	if b := c.Bound(nil, 5); b != (Bound{}) {
		t.Errorf("%+v", b)
	}
	if b := c.Bound([]workload.Origin{c.Unknown()}, 0); b != (Bound{}) {
		t.Errorf("a node without first runs gives %+v", b)
	}
	hostile := []workload.Origin{{Pool: uint8(pools), Scale: 1}, {Scale: 0}, {Scale: math.NaN()}, {Center: math.Inf(1), Scale: 1}, {Center: 900, Scale: 900}}
	if b := c.Bound(hostile, 0); b != (Bound{}) {
		t.Errorf("%+v", b)
	}
	c.Learn(hostile[:4], 0, 5, 0)
	for _, peak := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		c.Learn([]workload.Origin{{Scale: 1}}, 1, peak, 0)
	}
	if !reflect.DeepEqual(c.State(), NewCalibrator(1, 0.98).State()) {
		t.Error("something was learned from nothing")
	}
}

func TestSeeds(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	if b := next(c, peaks(100)); !near(b.Value, 100*math.Exp(3*priorSpread)) || b.Scores != 0 || b.By != PoolOwn {
		t.Errorf("one run: %+v", b)
	}
	steady := peaks(slices.Repeat([]float32{100}, 16)...)
	steady.Runs = 100
	if b := next(c, steady); b.Value > 105 {
		t.Errorf("a hundred equal runs: %+v", b)
	}
	if b := next(c, peaks(100, 10, 1, 100, 1)); !near(b.Value, 100*math.Exp(1.8*mostSpread)) {
		t.Errorf("wild runs: %+v, want no more than the largest spread allows", b)
	}
	older := steady
	older.Older = []float32{200, 50}
	if b := next(c, older); b.Value < 200 {
		t.Errorf("what was higher long ago is forgotten: %+v", b)
	}
	asked, _ := c.Asked(1000)
	if b := c.Bound([]workload.Origin{asked}, 0); !near(b.Value, 750) || b.By != PoolAsked {
		t.Errorf("asked for 1000: %+v", b)
	}
	scanned, _ := NewCalibrator(0, 0.99).Scanned(100, 1000)
	if b := NewCalibrator(0, 0.99).Bound([]workload.Origin{scanned}, 0); !(b.Value > 1000 && b.Value < 1250) {
		t.Errorf("a scan that says 1000 is exceeded by one in a hundred: %+v", b)
	}
	if strict := NewCalibrator(0, 0.999); next(strict, peaks(100)).Value <= next(c, peaks(100)).Value {
		t.Error("more coverage is not dearer")
	}
}

// Runs of a second show how a program begins: what follows them is bounded like something that was hardly seen.
func TestBriefRunsTellLittle(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	p := peaks(100, 100, 100)
	known := next(c, p)
	p.Lasted = 1.9
	brief := next(c, p)
	if known.By != PoolOwn+2 || brief.By != PoolBrief || !near(brief.Value, 100*math.Exp(3*briefSpread)) {
		t.Errorf("brief %+v, not known %+v", brief, known)
	}
	for _, p := range []Peaks{{3, p.Newest, nil, 2}, {5, p.Newest, nil, 1}} {
		if b := next(c, p); b.By == PoolBrief {
			t.Errorf("%+v is brief", p)
		}
	}
	o, _ := c.Own(p)
	for before := range 30 { // those that began together count as few
		c.Learn([]workload.Origin{o}, 0, 500, before)
	}
	if got := len(c.State().Scores[PoolBrief]); got != 5 {
		t.Errorf("%d scores", got)
	}
}

// However many runs stay below, the bounds after few runs get no looser than asked.
func TestFewRunsKeepTheAskedLevel(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	few, many := peaks(100, 100), peaks(100, 100)
	many.Runs = 5
	before, beforeMany := next(c, few), next(c, many)
	for range 500 {
		c.Learn(known, 2, 1, 0)
	}
	if after := next(c, few); after != before {
		t.Errorf("%+v, was %+v", after, before)
	}
	if after := next(c, many); after.Value >= beforeMany.Value {
		t.Errorf("%+v, was %+v", after, beforeMany)
	}
}

func TestKin(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	one, _ := c.Kin(SameProgram, []Peer{{100, 0}}, 0)
	if !near(math.Exp(one.Center), 100) || !near(one.Scale, 0.5) || one.Pool != uint8(PoolProgram) {
		t.Errorf("%+v", one)
	}
	word, _ := c.Kin(SharedWord, []Peer{{100, 0}, {10, 0}}, 0)
	if !near(math.Exp(word.Center), 100) || word.Scale <= 1 || word.Pool != uint8(PoolKin) {
		t.Errorf("%+v", word)
	}
	more, _ := c.Kin(SameProgram, []Peer{{100, 1000}}, 4000)
	less, _ := c.Kin(SameProgram, []Peer{{100, 1000}}, 250)
	if !near(math.Exp(more.Center), 200) || !near(math.Exp(less.Center), 50) {
		t.Errorf("a request four times as high: %+v; a quarter: %+v", more, less)
	}
	tiny, _ := NewCalibrator(100, 0.98).Kin(SameProgram, []Peer{{4, 1000}}, 250)
	if !near(math.Exp(tiny.Center), 102) {
		t.Errorf("what does not matter does not shrink with a request: %+v", tiny)
	}
}

func TestRequestsTakeNoRiskBesideOthers(t *testing.T) {
	origins := []workload.Origin{{Pool: uint8(PoolAsked)}, {Pool: uint8(PoolKin)}, {Pool: uint8(PoolScanned)}}
	sum := 0.0
	for _, o := range origins {
		sum += portion(Pool(o.Pool), origins)
	}
	if !near(sum, 1) || portion(PoolAsked, origins) != 0 || portion(PoolAsked, origins[:1]) != 1 || portion(PoolKin, origins[1:]) != 0.5 {
		t.Errorf("of all: %v", sum)
	}
}

func TestTheLeastBoundWins(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	kin, _ := c.Kin(SameProgram, []Peer{{10, 0}}, 0)
	scanned, _ := c.Scanned(500, 2000)
	both := c.Bound([]workload.Origin{scanned, kin}, 0)
	alone := c.Bound([]workload.Origin{kin}, 0)
	if both.By != PoolProgram || both.Value <= alone.Value {
		t.Errorf("%+v and alone %+v: two bounds that hold together are higher than each alone", both, alone)
	}
	asked, _ := c.Asked(1000)
	if b := c.Bound([]workload.Origin{asked, kin}, 0); b != alone {
		t.Errorf("%+v, without the request %+v", b, alone)
	}
	if b := c.Bound([]workload.Origin{{Pool: uint8(PoolAsked), Center: asked.Center - 9, Scale: 1}, kin}, 0); b.By != PoolAsked {
		t.Errorf("a request below the others' bound: %+v", b)
	}
	if b := c.Bound([]workload.Origin{kin}, 12); b.Value != 12 {
		t.Errorf("above what was asked for: %+v", b)
	}
}

func TestRequestsAreNotUndercut(t *testing.T) {
	c := NewCalibrator(0, 0.98)
	asked, _ := c.Asked(1000)
	for range 1000 { // all ask for a hundred times too much
		c.Learn([]workload.Origin{asked}, 750, 10, 0)
	}
	if b := c.Bound([]workload.Origin{asked}, 0); b.Value < 250 || b.Value > 1000 {
		t.Errorf("%+v", b)
	}
	for range 100 {
		c.Learn([]workload.Origin{asked}, 0, 990, 0)
	}
	if b := c.Bound([]workload.Origin{asked}, 1000); b.Value < 900 {
		t.Errorf("users who need what they ask for: %+v", b)
	}
}

func TestUnknownComparesFirstRuns(t *testing.T) {
	c := NewCalibrator(0.001, 0.99)
	none := []workload.Origin{c.Unknown()}
	for _, first := range []float64{10, 1000, 20} {
		c.Learn(none, 0, first, 0)
	}
	if b := c.Bound(none, 0); !near(b.Value, 4000) || b.Scores != 3 {
		t.Errorf("%+v, want four times the highest first run", b)
	}
	for range 2000 {
		c.Learn(none, 0, 10, 0)
	}
	if b := c.Bound(none, 0); b.Value > 100 {
		t.Errorf("%+v", b)
	}
}

// Thirty first runs of one workload at once are not thirty workloads.
func TestFirstRunsOfOneWorkloadAreThinned(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	kin, _ := c.Kin(SharedWord, []Peer{{10, 0}}, 0)
	for before := range 30 {
		c.Learn([]workload.Origin{kin}, 0, 10, before)
	}
	if got := len(c.State().Scores[PoolKin]); got != 5 { // before 0, 1, 3, 7, 15
		t.Errorf("%d scores", got)
	}
}

func TestHostilePeaks(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for _, v := range []float32{0, -5, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32} {
		o, ok := c.Own(peaks(v, 1))
		if !ok {
			t.Fatalf("peak %v", v)
		}
		c.Learn([]workload.Origin{o}, 1, float64(v), 0)
		if b := c.Bound([]workload.Origin{o}, 0); !(b.Value >= 0) || math.IsInf(b.Value, 0) {
			t.Errorf("peak %v: bound %v", v, b.Value)
		}
	}
	for _, pool := range c.State().Scores {
		for _, x := range pool {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				t.Errorf("score %v", x)
			}
		}
	}
}

// stream plays runs of many workloads and returns how many of them exceeded
// their bound, and the mean of bound/peak's logarithm.
func stream(c *Calibrator, workloads, runs int, peak func(w, run int) float64) (above float64, slack float64) {
	history := make([]Peaks, workloads)
	n := 0.0
	for i := range workloads * runs {
		w := i % workloads
		h := &history[w]
		p := peak(w, i/workloads)
		if o, ok := c.Own(*h); ok {
			origins := []workload.Origin{o}
			b := c.Bound(origins, 0)
			n++
			slack += math.Log(b.Value / p)
			if p > b.Value {
				above++
			}
			c.Learn(origins, b.Value, p, h.Runs)
		}
		h.Runs++
		h.Newest = append(h.Newest, float32(p))
		h.Newest = h.Newest[max(0, len(h.Newest)-Window):]
	}
	return above / n, slack / n
}

func TestAskedCoverageIsReached(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	normal := func(spread float64) func(int, int) float64 {
		return func(w, _ int) float64 { return float64(1000*(w+1)) * math.Exp(spread*rng.NormFloat64()) }
	}
	for name, peak := range map[string]func(w, run int) float64{
		"steady": normal(0.01),
		"normal": normal(0.2),
		"mixed":  func(w, run int) float64 { return normal(0.01*float64(1+w%40))(w, run) },
		"heavy":  func(w, _ int) float64 { return float64(1000*(w+1)) / math.Sqrt(rng.Float64()) },
		"growing 2 % a run": func(w, run int) float64 {
			return float64(1000*(w+1)) * math.Pow(1.02, float64(run)) * math.Exp(0.05*rng.NormFloat64())
		},
	} {
		for _, coverage := range []float64{0.95, 0.98, 0.99} {
			above, slack := stream(NewCalibrator(1, coverage), 100, 100, peak)
			t.Logf("%s: asked %.3f above, got %.4f, bound/peak %.2f", name, 1-coverage, above, math.Exp(slack))
			if math.Abs(above-(1-coverage)) > 0.005 {
				t.Errorf("%s: asked for %.3f above the bound, got %.4f", name, 1-coverage, above)
			}
		}
	}
}

// Quantiles of all scores would need the surprises to leave the pool; the level does not.
func TestLevelFollowsAChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	c := NewCalibrator(1, 0.99)
	stream(c, 100, 60, func(int, int) float64 { return 1000 * math.Exp(0.01*rng.NormFloat64()) })
	above, _ := stream(c, 100, 60, func(w, run int) float64 { return 1000 * math.Exp(0.5*rng.NormFloat64()) })
	if above > 0.02 {
		t.Errorf("%.4f above the bound after the world became wilder", above)
	}
}

func TestLevelIsBounded(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for range 5000 {
		c.Learn(known, 1, 2, 0)
	}
	if c.alpha < 0.01/drift*0.999 || c.alpha > 0.01/drift*1.001 {
		t.Errorf("after surprises alone: %v", c.alpha)
	}
	for range 50_000 {
		c.Learn(known, 2, 1, 0)
	}
	if c.alpha > 0.01*drift*1.001 || c.alpha < 0.01*drift*0.999 {
		t.Errorf("after none: %v", c.alpha)
	}
	if loose := NewCalibrator(1, 0.5); loose.alpha != mostAlpha {
		t.Errorf("%v", loose.alpha)
	}
}

// known is the origin of a run with history.
var known = []workload.Origin{{Pool: uint8(fewPool + 1), Scale: 1}}

// First runs and those after a few are bounded with care: whether they stay below says nothing of the others.
func TestLevelIsOfRunsWithHistory(t *testing.T) {
	for _, c := range []struct {
		origins []workload.Origin
		moves   bool
	}{
		{known, true},
		{[]workload.Origin{{Pool: uint8(fewPool), Scale: 1}}, false},
		{[]workload.Origin{{Pool: uint8(PoolBrief), Scale: 1}}, false},
		{[]workload.Origin{{Pool: uint8(PoolAsked), Scale: 1}}, false},
		{[]workload.Origin{{Pool: uint8(PoolKin), Scale: 1}, {Pool: uint8(PoolAsked), Scale: 1}}, false},
	} {
		for _, peak := range []float64{1, 9} {
			b := NewCalibrator(1, 0.99)
			before := b.alpha
			if b.Learn(c.origins, 5, peak, 0); (b.alpha != before) != c.moves {
				t.Errorf("%+v, peak %v: level %v", c.origins, peak, b.alpha)
			}
		}
	}
}

func TestStateRestores(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	c := NewCalibrator(1, 0.99)
	stream(c, 50, 60, func(int, int) float64 { return 1000 * math.Exp(rng.NormFloat64()) })
	c.Learn([]workload.Origin{c.Unknown()}, 0, 7, 0)
	d := NewCalibrator(1, 0.99)
	d.Restore(c.State())
	if !reflect.DeepEqual(c.State(), d.State()) {
		t.Error("state differs after Restore")
	}
	if next(c, peaks(1, 2, 3)) != next(d, peaks(1, 2, 3)) {
		t.Error("bounds differ after Restore")
	}
	for _, level := range []float64{math.NaN(), -1, 1e9} {
		d.Restore(State{Level: level, Scores: append([][]float32{{float32(math.NaN()), float32(math.Inf(1)), 1}}, make([][]float32, 1000)...)})
		if d.alpha != d.asked || len(d.pools[0].aged) != 1 {
			t.Errorf("hostile state: level %v, %d scores", d.alpha, len(d.pools[0].aged))
		}
	}
}

func TestAdopt(t *testing.T) {
	many := make([]float32, 10*adopted)
	for i := range many {
		many[i] = float32(i)
	}
	prior := State{Level: 0.5, Scores: make([][]float32, pools)}
	prior.Scores[PoolOwn], prior.Scores[PoolKin], prior.Scores[PoolAsked], prior.Scores[PoolProgram] = many, many, many, many[:3]
	c := NewCalibrator(1, 0.99)
	c.Learn([]workload.Origin{{Pool: uint8(PoolAsked), Scale: 1}}, 0, 5, 0)
	for range 2 { // the second time changes nothing
		c.Adopt(prior)
		s := c.State()
		if s.Level != 1 || len(s.Scores[PoolOwn]) != 0 || len(s.Scores[PoolAsked]) != 1 || len(s.Scores[PoolProgram]) != 3 ||
			len(s.Scores[PoolKin]) != adopted || s.Scores[PoolKin][1] != 10 {
			t.Errorf("%v", s)
		}
	}
	c.Adopt(State{})
}

func TestMissingMass(t *testing.T) {
	for _, c := range []struct {
		n, loners int
		want      float64
	}{{0, 0, 1}, {-1, 3, 1}, {1, 1, 1}, {4, 0, 0.2}, {4, 1, 0.4}, {9, 0, 0.1}, {99, -1, 0.01}, {3, 7, 1}} {
		if got := MissingMass(c.n, c.loners); got != c.want {
			t.Errorf("MissingMass(%d, %d) = %v, want %v", c.n, c.loners, got, c.want)
		}
	}
}

// The bound holds on average whatever calls are made how often.
func TestMissingMassIsABound(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, n := range []int{1, 2, 4, 10, 30} {
		var bound, news float64
		const trials = 4000
		for range trials {
			probability := make([]float64, 40) // of each call in a run
			for i := range probability {
				probability[i] = math.Pow(rng.Float64(), 6)
			}
			count, maker := make([]int, 40), make([]int, 40)
			for run := range n {
				for call, p := range probability {
					if rng.Float64() < p {
						count[call]++
						maker[call] = run
					}
				}
			}
			loners := make(map[int]bool)
			fresh := false
			for call, p := range probability {
				if count[call] == 1 {
					loners[maker[call]] = true
				}
				fresh = fresh || count[call] == 0 && rng.Float64() < p
			}
			bound += MissingMass(n, len(loners)) / trials
			if fresh {
				news += 1. / trials
			}
		}
		t.Logf("%d runs: bound %.3f, new calls in %.3f of next runs", n, bound, news)
		if news > bound+0.02 {
			t.Errorf("%d runs: bound %.3f, new calls in %.3f of next runs", n, bound, news)
		}
	}
}

func BenchmarkBound(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	c := NewCalibrator(1, 0.99)
	stream(c, 100, 100, func(int, int) float64 { return 1000 * math.Exp(rng.NormFloat64()) })
	p := peaks(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	b.ReportAllocs()
	for b.Loop() {
		next(c, p)
	}
}
