package history

import (
	"cmp"
	"slices"
)

// shrink forgets the keys that were not heard of for longest when there are
// too many or they take too much: a sixteenth at a time, so that it is rarely done.
func (m *model) shrink() {
	known := &m.summaries
	if len(known.packed) <= m.maxKeys && known.bytes <= m.maxBytes {
		return
	}
	all := slices.SortedFunc(known.heads(), func(a, b head) int { return cmp.Compare(a.last, b.last) })
	for i, h := range all {
		if len(all)-i <= m.maxKeys-m.maxKeys/16 && known.bytes <= m.maxBytes-m.maxBytes/16 {
			return
		}
		known.forget(h.key)
	}
}
