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
func Merge(in Input) Effective {
	claims := slices.Clone(in.Claims)
	slices.SortFunc(claims, compareClaims)
	guards := indexGuards(in.Guards)
	m := merger{in: in, guards: guards, mode: ModeAdaptive}

	m.mode = m.settleMode(claims)
	var fields []Field
	for len(claims) > 0 {
		n := 1
		for n < len(claims) && claims[n].Key == claims[0].Key {
			n++
		}
		if claims[0].Key.Known() {
			if f, ok := m.resolve(claims[:n]); ok {
				fields = append(fields, f)
			}
		}
		delete(guards, claims[0].Key)
		claims = claims[n:]
	}
	for key, g := range guards { // guards on keys nobody claims
		if f, ok := guardOnly(key, g); ok {
			fields = append(fields, f)
		}
	}
	return newEffective(fields)
}

type merger struct {
	in     Input
	guards map[Key]guard
	mode   Value
}

func compareClaims(a, b Claim) int {
	amends := func(c Claim) int {
		if c.Amends {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Author, b.Author), cmp.Compare(amends(a), amends(b)),
		cmp.Compare(a.Value, b.Value), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Reason, b.Reason))
}

// settleMode resolves the mode before everything else, because it decides what
// becomes of the weaker claims of all other keys.
func (m *merger) settleMode(sorted []Claim) Value {
	i, _ := slices.BinarySearchFunc(sorted, KeyMode, func(c Claim, k Key) int { return cmp.Compare(c.Key, k) })
	n := i
	for n < len(sorted) && sorted[n].Key == KeyMode {
		n++
	}
	if i == n {
		if f, ok := guardOnly(KeyMode, m.guards[KeyMode]); ok && f.Value < m.mode {
			return f.Value
		}
		return m.mode
	}
	f, _ := m.resolve(sorted[i:n])
	return f.Value
}

// resolve settles one key. claims are all of that key, sorted. It returns
// false when nothing that counts was claimed.
func (m *merger) resolve(claims []Claim) (Field, bool) {
	key := claims[0].Key
	f := Field{Key: key}
	var byAuthor [Guardrail + 1]*Claim
	var spec, amend *Claim
	for i := range claims {
		c := &claims[i]
		slot := &byAuthor[min(c.Author, Guardrail)]
		switch {
		case c.Author == Request && c.Amends:
			slot = &amend
		case c.Author == Request:
			slot = &spec
		}
		if *slot == nil { // sorted: the first is the tightest
			*slot = c
			continue
		}
		f.lose(c, "a claim of equal strength is tighter")
	}
	byAuthor[Request] = m.settleRequest(&f, spec, amend, byAuthor[Default])
	if m.mode == ModeObserve && key != KeyMode {
		for _, a := range []Author{Default, Prediction} {
			f.lose(byAuthor[a], "observe mode: recorded, not applied")
			byAuthor[a] = nil
		}
	}
	winner := m.settle(&f, key, byAuthor)
	if winner != nil {
		f.Value, f.Origin = winner.Value, winner.Origin
	}
	applied := m.guards[key].clamp(&f, winner != nil)
	return f, winner != nil || applied || len(f.Lost) > 0
}

// settleRequest sets an annotation against what would hold without it.
func (m *merger) settleRequest(f *Field, spec, amend, standing *Claim) *Claim {
	if amend == nil {
		return spec
	}
	if spec != nil {
		standing = spec
	}
	switch {
	case standing == nil || amend.Value <= standing.Value:
		f.lose(spec, "tightened by "+amend.Source)
		return amend
	case m.granted(amend.Key):
		f.lose(spec, fmt.Sprintf("loosened by %s, which profile %q grants", amend.Source, m.in.Profile))
		return amend
	}
	f.lose(amend, fmt.Sprintf("looser than %s, and profile %q grants no loosening of %s",
		amend.Key.Format(standing.Value), m.in.Profile, amend.Key))
	return spec
}

func (m *merger) granted(k Key) bool {
	family, _ := k.Family()
	return slices.Contains(m.in.Grants, k) || slices.Contains(m.in.Grants, family)
}

// settle picks the winner among the authors and records why the others lost.
func (m *merger) settle(f *Field, key Key, by [Guardrail + 1]*Claim) *Claim {
	standing, predicted, requested, operator := by[Default], by[Prediction], by[Request], by[Operator]
	winner := standing
	beat := func(c *Claim, why string) {
		if c != nil {
			f.lose(winner, why)
			winner = c
		}
	}
	switch {
	case requested != nil && predicted != nil:
		w, l, why := m.conflict(key, requested, predicted)
		f.lose(l, why)
		beat(w, fmt.Sprintf("a default yields to a %s", w.Author))
	case requested != nil:
		beat(requested, "a default yields to a request")
	default:
		beat(predicted, "a default yields to a prediction")
	}
	beat(operator, "the operator decides")
	return winner
}

func (m *merger) conflict(key Key, request, prediction *Claim) (winner, loser *Claim, why string) {
	d := key.Dimension()
	rule, ok := m.in.Prefer[d]
	if !ok {
		rule = DefaultPrefer(d)
	}
	switch {
	case rule == PreferPrediction:
		return prediction, request, fmt.Sprintf("%s prefers the prediction", d)
	case rule == PreferStrictest && prediction.Value < request.Value:
		return prediction, request, fmt.Sprintf("%s prefers the strictest", d)
	case rule == PreferStrictest:
		return request, prediction, fmt.Sprintf("%s prefers the strictest", d)
	}
	return request, prediction, fmt.Sprintf("%s prefers the request", d)
}
