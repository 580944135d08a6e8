package policy

import (
	"fmt"
	"slices"
)

// ClaimsBy recovers the claims an author made to this policy, those that lost
// included, so that the policy can be merged anew when one of its inputs
// changes. Whether a claim amended another is not kept: annotations are to be
// parsed again. What was asked for by the running container does amend.
func (e Effective) ClaimsBy(a Author) []Claim {
	var out []Claim
	var said []Claim // of one field
	for _, f := range e.Fields {
		said = said[:0]
		add := func(v Value, o Origin) {
			if o.Author == a {
				said = append(said, Claim{Key: f.Key, Value: v, Origin: o, Amends: a == Request && o.Revision > 0})
			}
		}
		if !f.NoValue {
			add(f.Value, f.Origin)
		}
		for _, l := range f.Lost {
			add(l.Value, l.Origin)
		}
		if len(said) == 0 {
			continue
		}
		if f.Names == nil {
			out = append(out, said...)
		}
		for _, name := range f.Names {
			key := f.Key.Member(name)
			for _, c := range said {
				c.Key = key
				out = append(out, c)
			}
		}
	}
	return out
}

// Replace returns e with the fields of one dimension taken from newer. It shares
// the memory of both.
func (e Effective) Replace(d Dimension, newer Effective) Effective {
	return e.ReplaceKeys(func(k Key) bool { return k.Dimension() == d }, newer)
}

// Of is what e says of one dimension. It shares e's memory.
func (e Effective) Of(d Dimension) Effective { return Effective{}.Replace(d, e) }

// Differing lists the dimensions of which e and other say something else, be it only who decided.
func (e Effective) Differing(other Effective) (list []Dimension) {
	for _, d := range Dimensions {
		if !e.Of(d).Equal(other.Of(d)) {
			list = append(list, d)
		}
	}
	return list
}

// ReplaceKeys returns e with the fields of some plain keys and families taken from newer. It shares the memory of both.
func (e Effective) ReplaceKeys(in func(Key) bool, newer Effective) Effective {
	fields := slices.DeleteFunc(slices.Clone(e.Fields), func(f Field) bool { return in(f.Key) })
	for _, f := range newer.Fields {
		if in(f.Key) {
			fields = append(fields, f)
		}
	}
	sortFields(fields)
	return Effective{Version: EffectiveVersion, Fields: fields}
}

// ReplaceOnly returns e with what newer says of some plain keys and members of families, one by one. It shares the memory of both.
func (e Effective) ReplaceOnly(in map[Key]bool, newer Effective) Effective {
	families := make(map[Key]bool, len(in))
	for k := range in {
		family, _ := k.Family()
		families[family] = true
	}
	s := fields{alike: make(map[uint64]int)}
	var others []Field // none of them is replaced, nor anything like them; also of a newer release
	take := func(from Effective, in func(Key) bool) {
		for _, f := range from.Fields {
			info, names := keyIndex[f.Key], f.Names
			if info == nil || !families[f.Key] {
				others = append(others, f)
				continue
			}
			f.Names = nil
			if !info.family && in(f.Key) {
				s.add(&group{info: info}, &f)
			}
			for _, name := range names {
				if in(f.Key.Member(name)) {
					s.add(&group{info: info, name: name}, &f)
				}
			}
		}
	}
	take(newer, func(k Key) bool { return in[k] })
	others = nil
	take(e, func(k Key) bool { return !in[k] })
	out := s.effective()
	out.Fields = append(out.Fields, others...)
	sortFields(out.Fields)
	return out
}

// Diff lists in words what of some plain keys and families has another value in after, or is decided in only one of
// them: "memory 64MiB -> 128MiB". It is empty when nothing has.
func (e Effective) Diff(after Effective, in func(Key) bool) []string {
	decided := func(e Effective) (out []Field) {
		for _, f := range e.Fields {
			if in(f.Key) && !f.NoValue {
				out = append(out, f)
			}
		}
		return out
	}
	before, now := decided(e), decided(after)
	same := func(a, b Field) bool { return a.Key == b.Key && a.Value == b.Value && slices.Equal(a.Names, b.Names) }
	if slices.EqualFunc(before, now, same) {
		return nil
	}
	without := func(fields, others []Field) []Field { // of a change most is the same, and hundreds of calls have names
		first := make(map[Key]*Field, len(others))
		for i := range others {
			first[others[i].first()] = &others[i]
		}
		return slices.DeleteFunc(slices.Clone(fields), func(f Field) bool {
			g := first[f.first()]
			return g != nil && same(f, *g)
		})
	}
	before, now = without(before, now), without(now, before)
	values := func(fields []Field) map[Key]Value {
		m := make(map[Key]Value)
		for _, f := range fields {
			if f.Names == nil {
				m[f.Key] = f.Value
			}
			for _, name := range f.Names {
				m[f.Key.Member(name)] = f.Value
			}
		}
		return m
	}
	word := func(k Key, m map[Key]Value) string {
		if v, ok := m[k]; ok {
			return k.Format(v)
		}
		return "undecided"
	}
	was, is := values(before), values(now)
	var out []string
	for _, m := range []map[Key]Value{was, is} {
		for k := range m {
			if a, b := word(k, was), word(k, is); a != b {
				out = append(out, fmt.Sprintf("%s %s -> %s", k, a, b))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
