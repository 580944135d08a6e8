package history

import (
	"cmp"
	"maps"
	"slices"
)

// shrink forgets the keys that were not heard of for longest when there are
// too many: a sixteenth at a time, so that it is rarely done.
func (m *model) shrink() {
	if len(m.summaries) <= m.maxKeys {
		return
	}
	all := slices.SortedFunc(maps.Values(m.summaries), func(a, b *summary) int { return cmp.Compare(a.last, b.last) })
	for _, s := range all[:len(all)-m.maxKeys+m.maxKeys/16] {
		delete(m.summaries, s.key)
	}
}
