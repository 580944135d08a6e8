package intercept

import (
	"maps"
	"slices"
)

// numbered are things that live, by numbers that do not come again. Who has one guards it.
type numbered[T any] struct {
	last uint64
	live map[uint64]T
}

// add takes one more and returns its number.
func (n *numbered[T]) add(one T) uint64 {
	if n.live == nil {
		n.live = make(map[uint64]T)
	}
	n.last++
	n.live[n.last] = one
	return n.last
}

func (n *numbered[T]) remove(number uint64) { delete(n.live, number) }

// after are the numbers behind one, in the order in which they were given.
func (n *numbered[T]) after(number uint64) []uint64 {
	all := slices.Sorted(maps.Keys(n.live))
	from, _ := slices.BinarySearch(all, number+1)
	return all[from:]
}
