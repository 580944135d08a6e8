package policy

import "slices"

// Renew returns e with another value of a plain key that was decided before, seen to be needed at o.Revision. What an author
// predicted at Create is kept among the losers, as Merge would keep it; what was seen before is forgotten. It
// shares e's memory.
func (e Effective) Renew(k Key, v Value, o Origin) Effective {
	fields := slices.Clone(e.Fields)
	for i, f := range fields {
		if f.Key != k || f.NoValue {
			continue
		}
		lost := slices.DeleteFunc(slices.Clone(f.Lost), func(l Lost) bool { return l.Author == o.Author && l.Revision > 0 })
		if f.Author == o.Author && f.Revision == 0 {
			lost = append(lost, Lost{Origin: f.Origin, Value: f.Value, Why: whySeen})
		}
		fields[i] = Field{Key: k, Value: v, Origin: o, Lost: lost}
	}
	return Effective{Version: e.Version, Fields: fields}
}

// whySeen is why a prediction made at Create loses to one made of the running container.
const whySeen = "what the running container was seen to need replaces it"
