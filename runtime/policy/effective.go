package policy

import (
	"cmp"
	"slices"
)

// EffectiveVersion is the version of Effective's JSON form.
const EffectiveVersion = 1

// Field is one decided value. Members of a family that were decided alike
// share one Field: Key is then the family and Names its members.
type Field struct {
	Key   Key      `json:"key"`
	Names []string `json:"names,omitempty"`
	Value Value    `json:"value"`
	Origin
	// NoValue marks a field nobody's applied claim decided (observe mode);
	// what would have been is in Lost.
	NoValue bool   `json:"no_value,omitempty"`
	Lost    []Lost `json:"lost,omitempty"`
}

// first is the key that the field decides, of a family the first.
func (f *Field) first() Key {
	if len(f.Names) == 0 {
		return f.Key
	}
	return f.Key.Member(f.Names[0])
}

// Lost is a claim that did not prevail.
type Lost struct {
	Origin
	Value Value  `json:"value"`
	Why   string `json:"why"`
}

func (f *Field) lose(c *Claim, why string) {
	if c != nil {
		f.Lost = append(f.Lost, Lost{Origin: c.Origin, Value: c.Value, Why: why})
	}
}

// Effective is a container's policy with the author, reason and losers of
// every field.
type Effective struct {
	Version int     `json:"version"`
	Fields  []Field `json:"fields"`
}

// fields collects the decided fields of an Effective and folds members of a
// family that were decided alike into one.
type fields struct {
	list    []Field
	alike   map[uint64]int // likeness -> 1 + index of the last field that has it
	before  []int          // for each field: 1 + index of the one before it that has its likeness
	members []member
}

// A member of a family and the index of the field that it belongs to.
type member struct {
	name  string
	field int
}

// add takes what was decided of one key. It keeps copies of f and f.Lost.
func (s *fields) add(g *group, f *Field) {
	f.Key = g.info.key
	before := 0
	if g.name != "" {
		like := f.likeness()
		before = s.alike[like]
		for i := before; i > 0; i = s.before[i-1] {
			if f.alike(&s.list[i-1]) {
				s.members = append(s.members, member{g.name, i - 1})
				return
			}
		}
		s.alike[like] = len(s.list) + 1
		s.members = append(s.members, member{g.name, len(s.list)})
	}
	s.list = append(s.list, *f)
	s.list[len(s.list)-1].Lost = append([]Lost(nil), f.Lost...)
	s.before = append(s.before, before)
}

func (s *fields) effective() Effective {
	sizes := make([]int, len(s.list))
	for _, m := range s.members {
		sizes[m.field]++
	}
	names := make([]string, len(s.members))
	for i, n := range sizes {
		if n > 0 {
			s.list[i].Names, names = names[:0:n], names[n:]
		}
	}
	for _, m := range s.members {
		s.list[m.field].Names = append(s.list[m.field].Names, m.name)
	}
	for i := range s.list {
		slices.Sort(s.list[i].Names)
	}
	sortFields(s.list)
	return Effective{Version: EffectiveVersion, Fields: s.list}
}

// likeness is equal for members that were decided alike, cheap, and different
// for most of those that were not.
func (f *Field) likeness() uint64 {
	h := uint64(f.Value)
	for _, n := range [...]int{len(f.Key), int(f.Author), len(f.Source), len(f.Reason), len(f.Lost)} {
		h = h*1_000_003 + uint64(n)
	}
	return h
}

// alike reports whether two members of a family were decided alike.
func (f *Field) alike(g *Field) bool {
	return f.Key == g.Key && f.Value == g.Value && f.Origin == g.Origin && f.NoValue == g.NoValue && slices.Equal(f.Lost, g.Lost)
}

// Equal reports whether e and other decide the same, for the same reasons and against the same losers.
func (e Effective) Equal(other Effective) bool {
	return slices.EqualFunc(e.Fields, other.Fields, func(a, b Field) bool { return a.alike(&b) && slices.Equal(a.Names, b.Names) })
}

// sortFields puts fields in the order explain prints them.
func sortFields(fields []Field) {
	slices.SortFunc(fields, func(a, b Field) int {
		return cmp.Or(cmp.Compare(keyRank[a.Key], keyRank[b.Key]), cmp.Compare(a.Value, b.Value),
			cmp.Compare(a.Author, b.Author), slices.Compare(a.Names, b.Names))
	})
}

// Lookup returns the field that decides k, a plain key or a member of a
// family. The field's Value holds for every one of its Names; it shares e's memory.
func (e Effective) Lookup(k Key) (Field, bool) {
	family, name := k.Family()
	for _, f := range e.Fields {
		if f.Key == family && !f.NoValue && (name == "" || contains(f.Names, name)) {
			return f, true
		}
	}
	return Field{}, false
}

func contains(sorted []string, name string) bool {
	_, ok := slices.BinarySearch(sorted, name)
	return ok
}

// Value returns the decided value of k, or missing when nobody decided it.
func (e Effective) Value(k Key, missing Value) Value {
	if f, ok := e.Lookup(k); ok {
		return f.Value
	}
	return missing
}

// Limit returns the decided value of a counted key; ok is false when it is
// undecided or unlimited.
func (e Effective) Limit(k Key) (n int64, ok bool) {
	f, found := e.Lookup(k)
	if !found || f.Value == Unlimited {
		return 0, false
	}
	return int64(f.Value), true
}

// Members returns the decided values of a family by member name. The map is
// the caller's.
func (e Effective) Members(family Key) map[string]Value {
	m := make(map[string]Value)
	for _, f := range e.Fields {
		if f.Key == family && !f.NoValue {
			for _, name := range f.Names {
				m[name] = f.Value
			}
		}
	}
	return m
}

// Mode returns the policy's mode; ModeAdaptive when it is undecided.
func (e Effective) Mode() Value { return e.Value(KeyMode, ModeAdaptive) }

// Sealed reports whether the policy is sealed.
func (e Effective) Sealed() bool { return e.Value(KeySealed, Loose) == Tight }
