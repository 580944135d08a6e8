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
			add := func(v Value, o Origin) {
				if o.Author == a {
					out = append(out, Claim{Key: key, Value: v, Origin: o, Amends: a == Request && o.Revision > 0})
				}
			}
			if !f.NoValue {
				add(f.Value, f.Origin)
			}
			for _, l := range f.Lost {
				add(l.Value, l.Origin)
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

// ReplaceOnly returns e with what newer says of some plain keys and members of families, one by one.
func (e Effective) ReplaceOnly(in func(Key) bool, newer Effective) Effective {
	s := fields{alike: make(map[uint64]int)}
	var unknown []Field // of a newer release: nobody here can have changed them
	take := func(from Effective, in func(Key) bool) {
		for _, f := range from.Fields {
			info, names := keyIndex[f.Key], f.Names
			if info == nil {
				unknown = append(unknown, f)
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
	take(newer, in)
	unknown = nil
	take(e, func(k Key) bool { return !in(k) })
	out := s.effective()
	out.Fields = append(out.Fields, unknown...)
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
		return nil // of a change most is so, and hundreds of calls have names
	}
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
