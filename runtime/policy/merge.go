package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Input is everything Merge looks at.
type Input struct {
	Claims []Claim
	Guards []Guard
	// Grants are the keys or families that the workload's profile lets an
	// annotation loosen; Profile is that profile's name, for the reasons.
	Grants  []Key
	Profile string
	Prefer  map[Dimension]Prefer // missing: DefaultPrefer
}

// Merge resolves claims to the effective policy. It is total and
// deterministic; the order of claims and guards is irrelevant, and claims of
// equal strength resolve to the tightest. Claims for unknown keys are dropped.
//
// For each key the request is settled first (spec, then annotations, which may
// tighten it and loosen it only under a grant), then set against the prediction
// by the dimension's conflict rule; a default stands only where neither speaks;
// an operator replaces all of them; guards clamp what is left. In observe mode
// what a default or a prediction would have decided is recorded and not applied.
//
// Where nobody has a default for the mode, it is adaptive.
func Merge(in Input) Effective {
	m := merger{in: in, rules: conflictRules(in.Prefer)}
	groups := groupByKey(in.Claims, in.Guards)
	m.mode = m.resolve(&groups[0]).Value // decides what becomes of weaker claims of all other keys
	m.confined = m.confines(groups, KeyEgressDefault, Tight) || m.confines(groups, KeyEgressFeeds, FeedsBlock)
	fields := fields{alike: make(map[uint64]int), members: make([]member, 0, len(groups))}
	for i := range groups {
		if f := m.resolve(&groups[i]); !f.NoValue || len(f.Lost) > 0 {
			fields.add(&groups[i], f)
		}
	}
	return fields.effective()
}

// defaultMode is the claim that stands where nobody has a default for the mode.
var defaultMode = Claim{Key: KeyMode, Value: ModeAdaptive,
	Origin: Origin{Author: Default, Source: "forefend", Reason: "nobody chose a mode"}}

// A group is all that is claimed of one key, and its guard.
type group struct {
	info   *keyInfo
	name   string   // of a family's member
	claims []*Claim // in the order of compareClaims, without duplicates
	guard  *guard   // nil: none
}

// groups finds groups by their keys.
type groups struct {
	list  []group
	index map[Key]int // in list, or -1 for an unknown key
}

// find returns the index of k's group, and makes one when there is none; it
// returns -1 for an unknown key.
func (g *groups) find(k Key) int {
	n, seen := g.index[k]
	if !seen {
		n = -1
		if info, name := k.split(); info != nil && info.family == (name != "") {
			n, g.list = len(g.list), append(g.list, group{info: info, name: name})
		}
		g.index[k] = n
	}
	return n
}

// groupByKey gathers what concerns each known key, the mode first. Grouping
// before sorting is what makes Merge fast: only claims of one key are compared.
func groupByKey(claims []Claim, guards []Guard) []group {
	size := len(claims) + len(guards) + 1 // most are one author's word about a system call
	g := groups{make([]group, 0, size), make(map[Key]int, size)}
	g.find(KeyMode)
	sizes, at := make([]int32, len(claims)+1), make([]int32, len(claims))
	sizes[0] = 1 // room for defaultMode
	for i := range claims {
		if at[i] = int32(g.find(claims[i].Key)); at[i] >= 0 {
			sizes[at[i]]++
		}
	}
	slab := make([]*Claim, len(claims)+1)
	for n := range g.list {
		g.list[n].claims, slab = slab[:0:sizes[n]], slab[sizes[n]:]
	}
	for i, n := range at {
		if n >= 0 {
			g.list[n].claims = append(g.list[n].claims, &claims[i])
		}
	}
	for _, guard := range guards {
		if n := g.find(guard.Key); n >= 0 {
			g.list[n].restrict(guard)
		}
	}
	if mode := &g.list[0]; !slices.ContainsFunc(mode.claims, func(c *Claim) bool { return c.Author == Default }) {
		mode.claims = append(mode.claims, &defaultMode)
	}
	for n := range g.list {
		c := g.list[n].claims
		if len(c) < 2 {
			continue
		}
		slices.SortFunc(c, compareClaims)
		g.list[n].claims = slices.CompactFunc(c, func(a, b *Claim) bool { return compareClaims(a, b) == 0 })
	}
	return g.list
}

func (g *group) restrict(by Guard) {
	if g.guard == nil {
		g.guard = new(guard)
	}
	g.guard.add(by)
}

// compareClaims orders the claims of one key: for each kind of author the
// claim that speaks for it comes first.
func compareClaims(a, b *Claim) int {
	switch {
	case a.Author != b.Author:
		return cmp.Compare(a.Author, b.Author)
	case a.amends() != b.amends():
		if b.amends() {
			return -1
		}
		return 1
	case a.rank != b.rank:
		return cmp.Compare(b.rank, a.rank)
	case a.seen() != b.seen():
		if a.seen() {
			return -1
		}
		return 1
	case a.Value != b.Value:
		return cmp.Compare(a.Value, b.Value)
	}
	return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Reason, b.Reason), cmp.Compare(a.Revision, b.Revision))
}

type merger struct {
	in    Input
	rules []rule
	mode  Value
	// confined says that others than the request restrict whom the container may contact: an exception is then a loosening.
	confined bool
	field    Field // scratch of resolve
}

// confines tells whether k would have a value without what request and prediction claim.
func (m *merger) confines(groups []group, k Key, value Value) bool {
	i := slices.IndexFunc(groups, func(g group) bool { return g.info.key == k })
	if i < 0 {
		return false
	}
	g := groups[i]
	g.claims = slices.DeleteFunc(slices.Clone(g.claims), func(c *Claim) bool { return c.Author == Request || c.Author == Prediction })
	f := m.resolve(&g)
	return !f.NoValue && f.Value == value
}

// authors are the claims that speak for each author of one key.
type authors [Guardrail]*Claim

// resolve settles one key. The field has no key yet, and the next call
// overwrites it.
func (m *merger) resolve(g *group) *Field {
	m.field = Field{Lost: m.field.Lost[:0]}
	f := &m.field
	by, amendments := elect(f, g.claims)
	if m.mode == ModeObserve && g.info.key != KeyMode {
		for _, a := range []Author{Default, Prediction} {
			f.lose(by[a], "observe mode: recorded, not applied")
			by[a] = nil
		}
	}
	for _, amend := range amendments {
		if amend != nil {
			by[Request] = m.amended(f, amend, by)
		}
	}
	winner := m.settle(f, g.info.dimension, by)
	if winner != nil {
		f.Value, f.Origin = winner.Value, winner.Origin
	}
	applied := g.guard != nil && g.guard.clamp(f, winner != nil)
	f.NoValue = winner == nil && !applied
	return f
}

// elect finds the claim that speaks for each author, and what wants to amend the request: first the annotation, then what
// the running container asked for. Of equals it is the tightest.
func elect(f *Field, claims []*Claim) (by authors, amendments [2]*Claim) {
	for _, c := range claims {
		if c.Author >= Guardrail {
			f.lose(c, "only a guard is a guardrail")
			continue
		}
		slot := &by[c.Author]
		if c.amends() {
			slot = &amendments[min(c.Revision, 1)]
		}
		switch {
		case *slot == nil: // sorted: the first speaks
			*slot = c
		case c.rank < (*slot).rank:
			f.lose(c, "a default for fewer workloads replaces it")
		case (*slot).seen() && !c.seen():
			f.lose(c, whySeen)
		default:
			f.lose(c, "a claim of equal strength is tighter")
		}
	}
	return by, amendments
}

// amended sets an annotation against what would hold without it and returns
// the request that results.
func (m *merger) amended(f *Field, amend *Claim, by authors) *Claim {
	spec := by[Request]
	bound := m.unclaimed(amend.Key)
	switch {
	case spec != nil:
		bound = spec.Value
	default:
		if by[Default] != nil {
			bound = by[Default].Value
		}
		if by[Prediction] != nil { // prevails over a default
			bound = max(bound, by[Prediction].Value)
		}
	}
	switch {
	case amend.Value <= bound:
		if spec != nil {
			f.lose(spec, "tightened by "+amend.Source)
		}
		return amend
	case m.granted(amend.Key):
		if spec != nil {
			f.lose(spec, fmt.Sprintf("loosened by %s, which profile %q grants", amend.Source, m.in.Profile))
		}
		return amend
	}
	f.lose(amend, fmt.Sprintf("looser than %s, and profile %q grants no loosening of %s",
		amend.Key.Format(bound), m.in.Profile, amend.Key))
	return spec
}

// unclaimed is what an annotation is measured against where nobody else speaks.
// It is the tight end where silence means no: a capability that the spec does
// not list is not held, a device that it does not list is not open, and a system call that no profile allows is denied. Whom a container may contact is
// its own to say as long as nobody else restricts that.
func (m *merger) unclaimed(k Key) Value {
	switch family, _ := k.Family(); family {
	case KeyEgressFeeds:
		return FeedsWatch
	case KeyEgress:
		if m.confined {
			return Tight
		}
	case KeyCapabilities, KeySeccomp, KeyAgent, KeyDevices:
		return Tight
	case KeySyscalls:
		return SyscallDeny
	}
	return Unlimited
}

func (m *merger) granted(k Key) bool {
	family, _ := k.Family()
	return slices.Contains(m.in.Grants, k) || slices.Contains(m.in.Grants, family)
}

// settle picks the winner among the authors and records why the others lost.
func (m *merger) settle(f *Field, d Dimension, by authors) *Claim {
	winner := by[Default]
	beat := func(c *Claim, why string) {
		if c != nil {
			f.lose(winner, why)
			winner = c
		}
	}
	predicted, requested := by[Prediction], by[Request]
	if requested != nil && predicted != nil {
		rule := &m.rules[slices.Index(Dimensions, d)]
		switch {
		case rule.prefer == PreferPrediction, rule.prefer == PreferStrictest && predicted.Value < requested.Value:
			f.lose(requested, rule.reason)
			requested = nil
		default:
			f.lose(predicted, rule.reason)
			predicted = nil
		}
	}
	beat(predicted, "a default yields to a prediction")
	beat(requested, "a default yields to a request")
	beat(by[Operator], "the operator decides")
	return winner
}

// A rule is a dimension's conflict rule and the words for it.
type rule struct {
	prefer Prefer
	reason string
}

// conflictRules are the rules of Dimensions, in that order.
func conflictRules(prefer map[Dimension]Prefer) []rule {
	rules := make([]rule, len(Dimensions))
	for i, d := range Dimensions {
		p, err := ParsePrefer(string(prefer[d]))
		if err != nil { // or none
			p = DefaultPrefer(d)
		}
		rules[i] = rule{p, string(d) + " prefers the " + string(p)}
	}
	return rules
}
