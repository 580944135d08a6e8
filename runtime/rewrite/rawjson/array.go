package rawjson

import (
	"bytes"
	"encoding/json"
)

// editArray keeps the text of elements that are equal before and after, and
// edits the others in place when their number did not change.
func editArray(raw, before, after json.RawMessage) json.RawMessage {
	texts, b, a := elements(raw), elements(before), elements(after)
	if len(texts) != len(b) {
		return after
	}
	from, taken := match(b, a)
	out := make([]json.RawMessage, len(a))
	for i := range a {
		switch {
		case from[i] >= 0:
			out[i] = texts[from[i]]
		case len(a) == len(b) && !taken[i]:
			out[i] = edit(texts[i], b[i], a[i])
		default:
			out[i] = a[i]
		}
	}
	return append(append([]byte{'['}, bytes.Join(rows(out), []byte{','})...), ']')
}

func rows(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// elements are the texts of an array's elements.
func elements(raw json.RawMessage) []json.RawMessage {
	var list []json.RawMessage
	_ = json.Unmarshal(raw, &list) // it is an array: the caller looked
	return list
}

// match finds for each element of after an equal one of before, its own place
// first; -1 where there is none. taken marks those used.
func match(before, after []json.RawMessage) (from []int, taken []bool) {
	from, taken = make([]int, len(after)), make([]bool, len(before))
	for i := range after {
		from[i] = -1
		if i < len(before) && bytes.Equal(before[i], after[i]) {
			from[i], taken[i] = i, true
		}
	}
	places := make(map[string][]int)
	for i := range before {
		if !taken[i] {
			places[string(before[i])] = append(places[string(before[i])], i)
		}
	}
	for i := range after {
		if free := places[string(after[i])]; from[i] < 0 && len(free) > 0 {
			from[i], taken[free[0]] = free[0], true
			places[string(after[i])] = free[1:]
		}
	}
	return from, taken
}
