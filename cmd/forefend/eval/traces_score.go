package eval

import (
	"math"
	"slices"
	"strings"
)

// areaUnderROC is the probability that an attack scores higher than a normal trace, ties counting half.
func areaUnderROC(normal, attack []float64) float64 {
	if len(normal) == 0 || len(attack) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(normal))
	wins := 0.0
	for _, a := range attack {
		below, _ := slices.BinarySearch(sorted, a)
		above, _ := slices.BinarySearchFunc(sorted, a, func(v, a float64) int {
			if v <= a {
				return -1
			}
			return 1
		})
		wins += float64(below) + float64(above-below)/2
	}
	return wins / float64(len(normal)) / float64(len(attack))
}

// falseShareAt is the share of normal scores at or above the highest threshold that at least the given share of
// attacks reaches.
func falseShareAt(normal, attack []float64, detect float64) float64 {
	if len(normal) == 0 || len(attack) == 0 {
		return math.NaN()
	}
	down := slices.Sorted(slices.Values(attack))
	slices.Reverse(down)
	threshold := down[max(int(math.Ceil(detect*float64(len(down))))-1, 0)]
	over := 0
	for _, v := range normal {
		if v >= threshold {
			over++
		}
	}
	return float64(over) / float64(len(normal))
}

// stideWindow is the length that Warrender, Forrest and Pearlmutter (1999) found enough.
const stideWindow = 6

// stide is the baseline of Forrest et al. (1996): the share of a trace's windows that training never had.
type stide struct {
	window int
	known  map[string]struct{}
}

func newStide(window int) *stide { return &stide{window: window, known: make(map[string]struct{})} }

func (s *stide) windows(trace []string, visit func(key string)) {
	for i := s.window; i <= len(trace); i++ {
		visit(strings.Join(trace[i-s.window:i], " "))
	}
}

func (s *stide) learn(trace []string) {
	s.windows(trace, func(key string) { s.known[key] = struct{}{} })
}

func (s *stide) score(trace []string) float64 {
	all, fresh := 0, 0
	s.windows(trace, func(key string) {
		all++
		if _, ok := s.known[key]; !ok {
			fresh++
		}
	})
	if all == 0 {
		return 0
	}
	return float64(fresh) / float64(all)
}
