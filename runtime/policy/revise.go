package policy

import "slices"

// ClaimsBy recovers the claims an author made to this policy, those that lost
// included, so that the policy can be merged anew when one of its inputs
// changes. Whether a claim amended another is not kept: annotations are to be
// parsed again.
func (e Effective) ClaimsBy(a Author) []Claim {
	var out []Claim
	for _, f := range e.Fields {
		names := f.Names
		if names == nil {
			names = []string{""}
		}
		for _, name := range names {
			key := f.Key
			if name != "" {
				key = key.Member(name)
			}
			if f.Author == a && !f.NoValue {
				out = append(out, Claim{Key: key, Value: f.Value, Origin: f.Origin})
			}
			for _, l := range f.Lost {
				if l.Author == a {
					out = append(out, Claim{Key: key, Value: l.Value, Origin: l.Origin})
				}
			}
		}
	}
	return out
}

// Replace returns e with the fields of one dimension taken from newer. It shares
// the memory of both.
func (e Effective) Replace(d Dimension, newer Effective) Effective {
	in := func(f Field) bool { return f.Key.Dimension() == d }
	fields := slices.DeleteFunc(slices.Clone(e.Fields), in)
	for _, f := range newer.Fields {
		if in(f) {
			fields = append(fields, f)
		}
	}
	sortFields(fields)
	return Effective{Version: EffectiveVersion, Fields: fields}
}
