package estimate

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
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

func TestBuckets(t *testing.T) {
	for runs, want := range map[int]int{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 16: 4, 17: 5, 1 << 20: 5} {
		if got := bucket(Exact, runs); got != want {
			t.Errorf("%d runs are in bucket %d, want %d", runs, got, want)
		}
		if got := bucket(Node, runs); got != 0 {
			t.Errorf("node history is in bucket %d", got)
		}
	}
}

func peaks(values ...float32) Peaks { return Peaks{Runs: len(values), Newest: values} }

func TestNothingCanBeSaid(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for _, p := range []Peaks{{}, {Runs: 3}, {Newest: []float32{1}}} {
		if b := c.Bound(Exact, p); b != (Bound{}) {
			t.Errorf("Bound(%v) = %v", p, b)
		}
		c.Learn(Exact, p, 5)
	}
	if b := c.Bound(classes, peaks(1)); b != (Bound{}) {
		t.Errorf("an unknown class gives %v", b)
	}
	if b := c.Bound(Node, peaks(1)); b != (Bound{}) {
		t.Errorf("a node without first runs gives %v", b)
	}
	if !reflect.DeepEqual(c.State(), NewCalibrator(1, 0.99).State()) {
		t.Error("something was learned from nothing")
	}
}

func TestDefaultFactorWithoutScores(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	one := c.Bound(Exact, peaks(100))
	if math.Abs(one.Value-400) > 0.1 || !one.Few || one.Scores != 0 {
		t.Errorf("one run: %+v, want 400", one)
	}
	steady := c.Bound(Exact, peaks(100, 100, 100, 100, 100))
	if !(steady.Value < 200 && steady.Value > 150) {
		t.Errorf("five equal runs: %v", steady.Value)
	}
	wild := c.Bound(Exact, peaks(100, 10, 1, 100, 1))
	if math.Abs(wild.Value-400) > 0.1 {
		t.Errorf("wild runs: %v, want no more than the prior spread allows", wild.Value)
	}
}

func TestFewScoresAreNotTrusted(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for range 50 {
		c.Learn(Exact, peaks(100), 100)
	}
	if b := c.Bound(Exact, peaks(100)); math.Abs(b.Value-400) > 0.1 || !b.Few || b.Scores != 50 {
		t.Errorf("%+v", b)
	}
	c.Learn(Exact, peaks(100), 1000)
	if b := c.Bound(Exact, peaks(100)); b.Value < 1000 {
		t.Errorf("after a run of ten times the peak, the bound is %v", b.Value)
	}
}

func TestNodeComparesFirstRuns(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for _, first := range []float64{10, 1000, 20} {
		c.Learn(Node, peaks(7), first)
	}
	if b := c.Bound(Node, peaks(1)); b.Value < 3999 || !b.Few || b.Scores != 3 {
		t.Errorf("%+v, want four times the highest first run", b)
	}
	for range 2000 {
		c.Learn(Node, peaks(7), 10)
	}
	if b := c.Bound(Node, peaks(1)); b.Value > 100 || b.Few {
		t.Errorf("%+v", b)
	}
}

func TestHostilePeaks(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for _, v := range []float32{0, -5, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32} {
		c.Learn(Exact, peaks(v, 1), float64(v))
		if b := c.Bound(Exact, peaks(v, 1)); !(b.Value >= 1) || math.IsInf(b.Value, 0) {
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
func stream(c *Calibrator, workloads, runs int, next func(w, run int) float64) (above float64, slack float64) {
	history := make([]Peaks, workloads)
	n := 0.0
	for i := range workloads * runs {
		w := i % workloads
		h := &history[w]
		peak := next(w, i/workloads)
		if h.Runs > 0 {
			b := c.Bound(Exact, *h)
			n++
			slack += math.Log(b.Value / peak)
			if peak > b.Value {
				above++
			}
			c.Learn(Exact, *h, peak)
		}
		h.Runs++
		h.Newest = append(h.Newest, float32(peak))
		h.Newest = h.Newest[max(0, len(h.Newest)-Window):]
	}
	return above / n, slack / n
}

func TestAskedCoverageIsReached(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	normal := func(spread float64) func(int, int) float64 {
		return func(w, _ int) float64 { return float64(1000*(w+1)) * math.Exp(spread*rng.NormFloat64()) }
	}
	for name, next := range map[string]func(w, run int) float64{
		"steady": normal(0.01),
		"normal": normal(0.2),
		"mixed":  func(w, run int) float64 { return normal(0.01*float64(1+w%40))(w, run) },
		"heavy":  func(w, _ int) float64 { return float64(1000*(w+1)) / math.Sqrt(rng.Float64()) },
		"growing 2 % a run": func(w, run int) float64 {
			return float64(1000*(w+1)) * math.Pow(1.02, float64(run)) * math.Exp(0.05*rng.NormFloat64())
		},
	} {
		for _, coverage := range []float64{0.95, 0.99} {
			above, slack := stream(NewCalibrator(1, coverage), 100, 100, next)
			t.Logf("%s: asked %.3f above, got %.4f, bound/peak %.2f", name, 1-coverage, above, math.Exp(slack))
			if above > 1.25*(1-coverage) {
				t.Errorf("%s: asked for %.3f above the bound, got %.4f", name, 1-coverage, above)
			}
		}
	}
}

// The scores alone would need the surprise to leave the pool; the margin does not.
func TestMarginFollowsAChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	c := NewCalibrator(1, 0.99)
	stream(c, 100, 60, func(int, int) float64 { return 1000 * math.Exp(0.01*rng.NormFloat64()) })
	above, _ := stream(c, 100, 60, func(w, run int) float64 { return 1000 * math.Exp(0.5*rng.NormFloat64()) })
	if above > 0.02 {
		t.Errorf("%.4f above the bound after the world became wilder", above)
	}
	if c.margin[Exact] < 0 || c.margin[Exact] > maxMargin {
		t.Errorf("margin %v", c.margin[Exact])
	}
}

func TestMarginsAreBounded(t *testing.T) {
	c := NewCalibrator(1, 0.99)
	for i := range 3000 {
		c.Learn(Exact, peaks(1), math.Exp(float64(i)))
		c.Learn(Executable, peaks(1), math.Exp(float64(i)))
	}
	if c.margin[Exact] > maxMargin || c.margin[Executable] > maxMarginFirst {
		t.Errorf("margins %v", c.margin)
	}
}

func TestStateRestores(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	c := NewCalibrator(1, 0.99)
	stream(c, 50, 60, func(int, int) float64 { return 1000 * math.Exp(rng.NormFloat64()) })
	c.Learn(Node, peaks(1), 7)
	d := NewCalibrator(1, 0.99)
	d.Restore(c.State())
	if !reflect.DeepEqual(c.State(), d.State()) {
		t.Error("state differs after Restore")
	}
	if c.Bound(Exact, peaks(1, 2, 3)) != d.Bound(Exact, peaks(1, 2, 3)) {
		t.Error("bounds differ after Restore")
	}
	d.Restore(State{
		Margins: []float64{math.NaN(), -1, 1e9, 3, 4, 5},
		Scores:  append([][]float32{{float32(math.NaN()), float32(math.Inf(1)), 1}}, make([][]float32, 1000)...),
	})
	if d.margin != [classes]float64{} || len(d.pools[0][0].aged) != 1 {
		t.Errorf("hostile state: margins %v, %d scores", d.margin, len(d.pools[0][0].aged))
	}
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
		c.Bound(Exact, p)
	}
}
