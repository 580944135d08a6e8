package forecast

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var begin = time.Unix(1_700_000_000, 0)

// TestCoverage: a node of containers whose peaks are drawn from known distributions gets the violations that were asked for.
func TestCoverage(t *testing.T) {
	for _, coverage := range []float64{0.9, 0.98} {
		random := rand.New(rand.NewPCG(1, 2))
		m := New(Config{Coverage: coverage})
		var tracks []*Track
		for range 50 {
			tracks = append(tracks, m.Track("memory", 0))
		}
		violations, count := 0, 0
		for hour := range 100 {
			at := begin.Add(time.Duration(hour) * time.Hour)
			for _, track := range tracks {
				track.Advance(at)
			}
			for i, track := range tracks {
				size := math.Exp(float64(i%10)) * (1 + float64(i%3)*random.ExpFloat64())
				f := track.Forecast(at, 0)
				if hour > 0 {
					count++
					if size > f.Bound {
						violations++
					}
				}
				track.Add(at, size)
			}
		}
		// No more than asked; fewer by the reserve, and by what the node takes long to learn when it is unlike the prior.
		share := 1 - coverage
		if got := float64(violations) / float64(count); got > share+0.003 || got < share-max(0.007, 0.15*share) {
			t.Errorf("coverage %v: %.2f %% violations", coverage, 100*got)
		}
	}
}

func TestFirstWindowHasNoBound(t *testing.T) {
	track := New(Config{}).Track("memory", 0)
	track.Add(begin, 5)
	if f := track.Forecast(begin.Add(time.Minute), 0); f.Bound != 0 || f.Basis == "" {
		t.Errorf("got %+v", f)
	}
	track.Add(begin.Add(time.Hour), 5)
	if f := track.Forecast(begin.Add(time.Hour), 0); f.Bound < 5 {
		t.Errorf("got %+v", f)
	}
}

func TestBoundKeepsBelowCeiling(t *testing.T) {
	track := New(Config{Coverage: 0.999}).Track("memory", 100)
	for i := range 40 {
		track.Add(begin.Add(time.Duration(i)*time.Hour), 30+60*float64(i%2))
		if f := track.Forecast(begin.Add(time.Duration(i)*time.Hour), 0); f.Bound > 100 {
			t.Fatalf("hour %d: bound %v above a ceiling of 100", i, f.Bound)
		}
	}
}

func TestStrangeSamples(t *testing.T) {
	track := New(Config{}).Track("cpu", math.NaN())
	for i, v := range []float64{math.NaN(), math.Inf(1), -1, 0, math.MaxFloat64, 1e-300} {
		track.Add(begin.Add(time.Duration(i)*time.Hour), v)
		track.Add(begin.Add(-time.Hour), 7) // older than the last
	}
	track.Add(begin.Add(1e6*time.Hour), 1)
	f := track.Forecast(begin.Add(1e6*time.Hour), 3)
	if math.IsNaN(f.Bound) || math.IsNaN(f.Probability) {
		t.Errorf("got %+v", f)
	}
}

func TestReach(t *testing.T) {
	for _, c := range []struct {
		name     string
		value    func(second float64) float64
		limit    float64
		from, to float64 // of the probability
	}{
		{"steady", func(float64) float64 { return 50 }, 100, 0, 0.01},
		{"grows, soon", func(s float64) float64 { return s / 2 }, 100, 0.95, 1},
		{"grows, late", func(s float64) float64 { return s / 10 }, 100, 0, 0.05},
		{"sawtooth", func(s float64) float64 { return 40 + math.Mod(s, 20)*2 }, 100, 0, 0.1},
		{"is there", func(float64) float64 { return 100 }, 100, 1, 1},
	} {
		track := New(Config{}).Track("memory", 0)
		for i := range 180 {
			track.Add(begin.Add(time.Duration(i)*time.Second), c.value(float64(i)))
		}
		f := track.Forecast(begin.Add(179*time.Second), c.limit)
		if f.Probability < c.from || f.Probability > c.to {
			t.Errorf("%s: probability %v, want %v to %v", c.name, f.Probability, c.from, c.to)
		}
	}
}

func TestPriorRoundTrip(t *testing.T) {
	b := EncodePrior(shipped)
	again, err := DecodePrior(b)
	if err != nil || len(again) != len(shipped) || again[0][7] != shipped[0][7] {
		t.Fatalf("%v", err)
	}
	for _, bad := range [][]byte{nil, b[:11], b[:len(b)-1], append([]byte{9}, b[1:]...)} {
		if _, err := DecodePrior(bad); err == nil {
			t.Errorf("%d bytes were taken for a prior", len(bad))
		}
	}
}
