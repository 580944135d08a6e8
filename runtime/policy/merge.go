package policy

import (
	"cmp"
	"fmt"
	"slices"
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
	m := merger{in: in, guards: indexGuards(in.Guards), mode: ModeAdaptive}
	groups := groupByKey(withMode(in.Claims))
	if i := slices.IndexFunc(groups, func(g []Claim) bool { return g[0].Key == KeyMode }); i >= 0 {
		m.mode = m.resolve(groups[i]).Value // decides what becomes of weaker claims of all other keys
	}
	fields := make([]Field, 0, len(groups)+len(m.guards))
	for _, group := range groups {
		fields = append(fields, m.resolve(group))
		delete(m.guards, group[0].Key)
	}
	for key, g := range m.guards { // guards on keys nobody claims
		f := Field{Key: key}
		if g.clamp(&f, false) {
			fields = append(fields, f)
		}
	}
	return newEffective(fields)
}

// withMode returns a copy of claims that has a default for the mode.
func withMode(claims []Claim) []Claim {
	out := append(make([]Claim, 0, len(claims)+1), claims...)
	if slices.ContainsFunc(claims, func(c Claim) bool { return c.Key == KeyMode && c.Author == Default }) {
		return out
	}
	return append(out, Claim{Key: KeyMode, Value: ModeAdaptive,
		Origin: Origin{Author: Default, Source: "forefend", Reason: "nobody chose a mode"}})
}

// groupByKey gathers the claims of each known key, each group in the order of
// compareClaims and without duplicates. Grouping before sorting is what makes
// Merge fast: only claims of one key are ever compared.
func groupByKey(claims []Claim) [][]Claim {
	index := make(map[Key]int, len(claims))
	at := make([]int, len(claims))
	var sizes []int
	for i := range claims {
		k := claims[i].Key
		n, ok := index[k]
		if !ok {
			n = -1
			if k.Known() {
				n = len(sizes)
				sizes = append(sizes, 0)
			}
			index[k] = n
		}
		if at[i] = n; n >= 0 {
			sizes[n]++
		}
	}
	slab, groups := make([]Claim, len(claims)), make([][]Claim, len(sizes))
	for n, size := range sizes {
		groups[n], slab = slab[:0:size], slab[size:]
	}
	for i, n := range at {
		if n >= 0 {
			groups[n] = append(groups[n], claims[i])
		}
	}
	for n := range groups {
		slices.SortFunc(groups[n], compareClaims)
		groups[n] = slices.Compact(groups[n])
	}
	return groups
}

// compareClaims orders the claims of one key: for each kind of author the
// claim that speaks for it comes first.
func compareClaims(a, b Claim) int {
	amends := func(c Claim) int {
		if c.Amends {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Author, b.Author), amends(a)-amends(b), cmp.Compare(b.rank, a.rank),
		cmp.Compare(a.Value, b.Value), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Reason, b.Reason))
}

type merger struct {
	in     Input
	guards map[Key]guard
	mode   Value
}

// authors are the claims that speak for each author of one key.
type authors [Guardrail]*Claim

// resolve settles one key. claims are all of that key, sorted.
func (m *merger) resolve(claims []Claim) Field {
	key := claims[0].Key
	f := Field{Key: key, Lost: make([]Lost, 0, len(claims)+1)}
	by, amend := elect(&f, claims)
	if m.mode == ModeObserve && key != KeyMode {
		for _, a := range []Author{Default, Prediction} {
			f.lose(by[a], "observe mode: recorded, not applied")
			by[a] = nil
		}
	}
	if amend != nil {
		by[Request] = m.amended(&f, amend, by)
	}
	winner := m.settle(&f, by)
	if winner != nil {
		f.Value, f.Origin = winner.Value, winner.Origin
	}
	applied := m.guards[key].clamp(&f, winner != nil)
	f.NoValue = winner == nil && !applied
	return f
}

// elect finds the claim that speaks for each author, and the annotation that
// wants to amend the request. Of equals it is the tightest.
func elect(f *Field, claims []Claim) (by authors, amend *Claim) {
	for i := range claims {
		c := &claims[i]
		if c.Author >= Guardrail {
			f.lose(c, "only a guard is a guardrail")
			continue
		}
		slot := &by[c.Author]
		if c.Author == Request && c.Amends {
			slot = &amend
		}
		switch {
		case *slot == nil: // sorted: the first speaks
			*slot = c
		case c.rank < (*slot).rank:
			f.lose(c, "a default for fewer workloads replaces it")
		default:
			f.lose(c, "a claim of equal strength is tighter")
		}
	}
	return by, amend
}

// amended sets an annotation against what would hold without it and returns
// the request that results.
func (m *merger) amended(f *Field, amend *Claim, by authors) *Claim {
	spec := by[Request]
	bound := unclaimed(amend.Key)
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
// not list is not held, and a system call that no profile allows is denied.
func unclaimed(k Key) Value {
	switch family, _ := k.Family(); family {
	case KeyCapabilities, KeySeccomp, KeyAgent:
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
func (m *merger) settle(f *Field, by authors) *Claim {
	winner := by[Default]
	beat := func(c *Claim, why string) {
		if c != nil {
			f.lose(winner, why)
			winner = c
		}
	}
	predicted, requested := by[Prediction], by[Request]
	if requested != nil && predicted != nil {
		loser, rule := m.conflict(f.Key, requested, predicted)
		f.lose(loser, rule)
		if loser == requested {
			requested = nil
		} else {
			predicted = nil
		}
	}
	beat(predicted, "a default yields to a prediction")
	beat(requested, "a default yields to a request")
	beat(by[Operator], "the operator decides")
	return winner
}

// conflict returns which of the two loses, and the rule by which it does.
func (m *merger) conflict(key Key, request, prediction *Claim) (loser *Claim, rule string) {
	d := key.Dimension()
	prefer, ok := m.in.Prefer[d]
	if !ok {
		prefer = DefaultPrefer(d)
	}
	switch {
	case prefer == PreferPrediction:
		return request, string(d) + " prefers the prediction"
	case prefer == PreferStrictest && prediction.Value < request.Value:
		return request, string(d) + " prefers the strictest"
	case prefer == PreferStrictest:
		return prediction, string(d) + " prefers the strictest"
	}
	return prediction, string(d) + " prefers the request"
}
