package anomaly

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// play returns the steps at which a series alarms.
func play(values []float64) []int {
	s := NewSeries()
	var alarms []int
	for i, v := range values {
		if score, alarm := s.Add(v); alarm {
			if score < SeriesThreshold {
				panic("an alarm below the threshold")
			}
			alarms = append(alarms, i)
		}
	}
	return alarms
}

// hum is a steady series with noise of one.
func hum(n int, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float64, n)
	for i := range out {
		out[i] = 100 + r.NormFloat64()
	}
	return out
}

func TestSeriesFindsDepartures(t *testing.T) {
	for name, change := range map[string]func(i int, v float64) float64{
		"a spike": func(i int, v float64) float64 {
			if i == 2000 {
				return v + 20
			}
			return v
		},
		"a step": func(i int, v float64) float64 {
			if i >= 2000 {
				return v + 20
			}
			return v
		},
		"a silent shift": func(i int, v float64) float64 {
			if i >= 2000 {
				return v + 1.5
			}
			return v
		},
	} {
		values := hum(2400, 7)
		for i := range values {
			values[i] = change(i, values[i])
		}
		alarms := play(values)
		if !slices.ContainsFunc(alarms, func(i int) bool { return i >= 2000 && i < 2060 }) {
			t.Errorf("%s: alarms at %v", name, alarms)
		}
	}
}

func TestSeriesIsSilent(t *testing.T) {
	flat := make([]float64, 3000)
	sawtooth, daily := make([]float64, 3000), make([]float64, 3000)
	for i := range sawtooth {
		sawtooth[i] = float64(i % 37)
		daily[i] = math.Sin(2*math.Pi*float64(i)/288) * 50
	}
	for name, values := range map[string][]float64{"flat": flat, "sawtooth": sawtooth, "daily": daily} {
		if alarms := play(values); len(alarms) > 0 {
			t.Errorf("%s: alarms at %v", name, alarms)
		}
	}
	steps, alarms := 0, 0 // at ten seconds a step, with three series, one alarm an hour is one in 1080 steps
	for seed := range uint64(20) {
		steps += 3000
		alarms += len(play(hum(3000, seed)))
	}
	if rate := float64(alarms) / float64(steps); rate > 1.0/1080 {
		t.Errorf("one alarm in %.0f steps of noise", 1/rate)
	}
}

func TestSeriesAlarmsApart(t *testing.T) {
	scores := make([]float64, 300)
	for i := 100; i < 250; i++ {
		scores[i] = 9
	}
	var at []int
	for i, a := range SeriesAlarms(scores, 5) {
		if a == 1 {
			at = append(at, i)
		}
	}
	if !slices.Equal(at, []int{100, 201}) {
		t.Errorf("alarms at %v", at)
	}
}

func TestWindowKeepsTheLast(t *testing.T) {
	w := window{most: 100}
	for i := range 1000 {
		w.add(float64((i * 7919) % 1000))
	}
	var want []float32
	for i := 900; i < 1000; i++ {
		want = append(want, float32((i*7919)%1000))
	}
	slices.Sort(want)
	if !slices.Equal(w.sorted, want) || len(w.ring) != 100 {
		t.Errorf("kept %v", w.sorted)
	}
}

func FuzzSeries(f *testing.F) {
	f.Add(1.0, 2.0, 1e300)
	f.Add(math.NaN(), math.Inf(1), 0.0)
	f.Fuzz(func(t *testing.T, a, b, c float64) {
		s := NewSeries()
		for i := range 400 {
			score, _ := s.Add([]float64{a, b, c, a + float64(i)*b}[i%4])
			if math.IsNaN(score) || score < 0 {
				t.Fatalf("step %d: score %v", i, score)
			}
		}
	})
}
