package estimate

import "slices"

// MaxScores bounds a pool: 2048 scores place the 99 % quantile within ±0.22 %
// of coverage (one standard error), and an old score leaves when a new one comes.
const MaxScores = 2048

// scores is a pool of the newest MaxScores conformal scores, kept in order of
// age and in order of size, so that a quantile costs no sorting.
type scores struct {
	aged   []float32 // a ring once it is full
	next   int       // of aged: the oldest, which the next add replaces
	sorted []float32
}

func (s *scores) add(x float32) {
	if len(s.aged) < MaxScores {
		s.aged = append(s.aged, x)
	} else {
		old, _ := slices.BinarySearch(s.sorted, s.aged[s.next])
		s.sorted = slices.Delete(s.sorted, old, old+1)
		s.aged[s.next] = x
		s.next = (s.next + 1) % MaxScores
	}
	at, _ := slices.BinarySearch(s.sorted, x)
	s.sorted = slices.Insert(s.sorted, at, x)
}

// oldestFirst returns a copy of the pool from oldest to newest.
func (s *scores) oldestFirst() []float32 {
	return append(slices.Clone(s.aged[s.next:]), s.aged[:s.next]...)
}

// nthLargest returns the k-th largest score (k >= 1) of all pools together,
// which hold at least k scores. k is small for the coverages that matter, so
// merging from the top beats any index.
func nthLargest(pools []*scores, k int) float64 {
	var at [ownPools]int
	var best float32
	for ; k > 0; k-- {
		from := -1
		for i, p := range pools {
			if n := len(p.sorted) - 1 - at[i]; n >= 0 && (from < 0 || p.sorted[n] > best) {
				from, best = i, p.sorted[n]
			}
		}
		at[from]++
	}
	return float64(best)
}
