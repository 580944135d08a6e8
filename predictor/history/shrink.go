package history

import (
	"cmp"
	"maps"
	"slices"
)

// shrink forgets the keys that were not heard of for longest when there are
// too many or they take too much: a sixteenth at a time, so that it is rarely done.
func (m *model) shrink() {
	if len(m.summaries) <= m.maxKeys && m.bytes <= m.maxBytes {
		return
	}
	all := slices.SortedFunc(maps.Values(m.summaries), func(a, b *summary) int { return cmp.Compare(a.last, b.last) })
	for i, s := range all {
		if len(all)-i <= m.maxKeys-m.maxKeys/16 && m.bytes <= m.maxBytes-m.maxBytes/16 {
			return
		}
		delete(m.summaries, s.key)
		m.bytes -= s.sizeOf()
	}
}
