package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The keys laws are tried on: each kind of scale and conflict rule, members
// that can fold, and keys that are none.
var lawKeys = []Key{
	KeyMode, KeyAgent, KeyMemory, KeyPIDs, KeyNetwork, "syscalls/a", "syscalls/b", "syscalls/c",
	"capabilities/CAP_A", "masked_paths//x", "syscalls", "bogus", KeyEgressDefault, KeyEgressFeeds, "egress/10.0.0.0/8", "egress/::1", "io.write/8:0", "io.write/8:16",
}

func drawValue(t *rapid.T, k Key) Value {
	if w := k.Words(); w != nil {
		return Value(rapid.IntRange(0, len(w)-1).Draw(t, "word"))
	}
	return rapid.SampledFrom([]Value{1, 2, 3, 4, 5, 6, Unlimited}).Draw(t, "number")
}

func drawClaim(t *rapid.T) Claim {
	k := rapid.SampledFrom(lawKeys).Draw(t, "key")
	c := Claim{
		Key: k, Value: drawValue(t, k),
		Origin: Origin{
			Author: Author(rapid.IntRange(0, int(Guardrail)).Draw(t, "author")),
			Source: rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "source"),
			Reason: rapid.SampledFrom([]string{"", "r"}).Draw(t, "reason"),
		},
		Amends: rapid.Bool().Draw(t, "amends"),
	}
	c.Revision = rapid.IntRange(0, 1).Draw(t, "revision")
	if c.Author == Default {
		c.rank = uint8(rapid.IntRange(0, 2).Draw(t, "rank"))
	}
	return c
}

func drawGuard(t *rapid.T) Guard {
	k := rapid.SampledFrom(lawKeys).Draw(t, "key")
	g := Guard{Key: k, Source: rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "source")}
	if rapid.Bool().Draw(t, "floor") {
		g.Floor = at(drawValue(t, k))
	}
	if rapid.Bool().Draw(t, "ceiling") {
		g.Ceiling = at(drawValue(t, k))
	}
	return g
}

func drawInput(t *rapid.T) Input {
	in := Input{
		Claims:  rapid.SliceOfN(rapid.Custom(drawClaim), 0, 24).Draw(t, "claims"),
		Guards:  rapid.SliceOfN(rapid.Custom(drawGuard), 0, 4).Draw(t, "guards"),
		Grants:  rapid.SliceOfN(rapid.SampledFrom([]Key{KeyMemory, KeySyscalls, "syscalls/a", KeyMode}), 0, 2).Draw(t, "grants"),
		Profile: "p",
		Prefer:  map[Dimension]Prefer{},
	}
	for _, d := range Dimensions {
		if rapid.Bool().Draw(t, "rule") {
			in.Prefer[d] = rapid.SampledFrom([]Prefer{PreferRequest, PreferStrictest, PreferPrediction}).Draw(t, string(d))
		}
	}
	return in
}

// memberFields returns the decision of each key, families unfolded.
func memberFields(e Effective) map[Key]Field {
	m := make(map[Key]Field)
	for _, f := range e.Fields {
		if f.Names == nil {
			m[f.Key] = f
		}
		for _, name := range f.Names {
			m[f.Key.Member(name)] = f
		}
	}
	return m
}

// values returns the decided value of each key of lawKeys; what nobody decided
// is as loose as can be.
func values(e Effective) map[Key]Value {
	m := make(map[Key]Value)
	for _, k := range lawKeys {
		if k.Known() {
			m[k] = e.Value(k, silence(k))
		}
	}
	return m
}

func sameValues(t *rapid.T, what string, before, after Effective) {
	if b, a := values(before), values(after); !reflect.DeepEqual(a, b) {
		t.Fatalf("%s changed values\nfrom %v\nto   %v", what, b, a)
	}
}

// Law: the result depends on nothing but the input, and on the order of
// neither claims, guards nor grants.
func TestLawOrder(t *testing.T) { rapid.Check(t, lawOrder) }

func lawOrder(t *rapid.T) {
	in := drawInput(t)
	want := Merge(in)
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	in.Claims, in.Guards, in.Grants = slices.Clone(in.Claims), slices.Clone(in.Guards), slices.Clone(in.Grants)
	r.Shuffle(len(in.Claims), func(i, j int) { in.Claims[i], in.Claims[j] = in.Claims[j], in.Claims[i] })
	r.Shuffle(len(in.Guards), func(i, j int) { in.Guards[i], in.Guards[j] = in.Guards[j], in.Guards[i] })
	slices.Reverse(in.Grants)
	if got := Merge(in); !reflect.DeepEqual(got, want) {
		t.Fatalf("another order gives\n%+v\nnot\n%+v", got, want)
	}
}

// Law: saying a thing twice is saying it once; and saying again what won, by
// the author who won, changes no value.
func TestLawIdempotent(t *testing.T) { rapid.Check(t, lawIdempotent) }

func lawIdempotent(t *rapid.T) {
	in := drawInput(t)
	want := Merge(in)
	twice := in
	twice.Claims = slices.Concat(in.Claims, in.Claims)
	twice.Guards = slices.Concat(in.Guards, in.Guards)
	if got := Merge(twice); !reflect.DeepEqual(got, want) {
		t.Fatalf("twice the input gives\n%+v\nnot\n%+v", got, want)
	}
	again := in
	again.Claims = slices.Clone(in.Claims)
	for k, f := range memberFields(want) {
		i := slices.IndexFunc(in.Claims, func(c Claim) bool { return c.Key == k && c.Value == f.Value && c.Origin == f.Origin })
		if f.NoValue || i < 0 { // a guardrail's
			continue
		}
		c := in.Claims[i]
		c.Source = "again"
		again.Claims = append(again.Claims, c)
	}
	sameValues(t, "repeating what won", want, Merge(again))
}

// Law: of claims of equal strength the tightest speaks: a looser one beside it
// changes no value.
func TestLawTightestSpeaks(t *testing.T) { rapid.Check(t, lawTightestSpeaks) }

func lawTightestSpeaks(t *rapid.T) {
	in := drawInput(t)
	in.Claims = append(in.Claims, drawClaim(t))
	looser := in
	c := rapid.SampledFrom(in.Claims).Draw(t, "claim")
	c.Source = "looser"
	if c.Value < Unlimited-3 {
		c.Value += Value(rapid.IntRange(0, 3).Draw(t, "by"))
	}
	if c.Author != Request {
		c.Amends = !c.Amends // must not matter
	}
	looser.Claims = append(slices.Clone(in.Claims), c)
	sameValues(t, "a looser claim", Merge(in), Merge(looser))
}

// Law: a value is between its floor and its ceiling, and under the ceiling
// where the two contradict; only a key without a ceiling may stay undecided.
func TestLawGuardrailsDominate(t *testing.T) { rapid.Check(t, lawGuardrailsDominate) }

func lawGuardrailsDominate(t *rapid.T) {
	in := drawInput(t)
	result := Merge(in)
	for k, g := range guardsOf(in) {
		f, decided := result.Lookup(k)
		if g.ceiling != nil && (!decided || f.Value > *g.ceiling) {
			t.Fatalf("%s: %+v is beyond the ceiling %d", k, f, *g.ceiling)
		}
		if g.floor == nil || !decided {
			continue
		}
		if lowest := *g.floor; f.Value < lowest && (g.ceiling == nil || f.Value < min(lowest, *g.ceiling)) {
			t.Fatalf("%s: %+v is beyond the floor %d", k, f, lowest)
		}
	}
}

// Law: tightening one claim, of whatever author, or one floor or ceiling never
// loosens any value. Two exceptions, both of them somebody's explicit choice:
//
//   - A refused annotation counts as not made. Tightened until it is accepted
//     it is a request, which under PreferRequest wins over a tighter prediction.
//   - Leaving observe mode lets predictions decide again, which under
//     PreferPrediction may be looser than the request they override.
func TestLawTighteningNeverLoosens(t *testing.T) { rapid.Check(t, lawTighteningNeverLoosens) }

func lawTighteningNeverLoosens(t *rapid.T) {
	in := drawInput(t)
	in.Claims = append(in.Claims, drawClaim(t))
	tightened, key, amends := tighten(t, in)
	before, after := Merge(in), Merge(tightened)
	for k, was := range values(before) {
		now := after.Value(k, silence(k))
		if now <= was {
			continue
		}
		refused := k == key && amends && amendsOnly(in, k) && hasPrediction(in, k) && ruleOf(in, k) == PreferRequest
		overridden := before.Mode() == ModeObserve && after.Mode() != ModeObserve && ruleOf(in, k) == PreferPrediction
		if !refused && !overridden {
			t.Fatalf("tightening %s loosened %s from %d to %d\nbefore %+v\nafter  %+v", key, k, was, now, in, tightened)
		}
	}
}

// silence is what it means that nobody decided k. Of a destination it is what the other keys of egress say, which is
// never looser than that it is allowed.
func silence(k Key) Value {
	if family, name := k.Family(); family == KeyEgress && name != "" {
		return Loose
	}
	return Unlimited
}

func ruleOf(in Input, k Key) Prefer {
	if p, ok := in.Prefer[k.Dimension()]; ok {
		return p
	}
	return DefaultPrefer(k.Dimension())
}

func guardsOf(in Input) map[Key]guard {
	m := make(map[Key]guard)
	for _, g := range in.Guards {
		if g.Key.Known() {
			sum := m[g.Key]
			sum.add(g)
			m[g.Key] = sum
		}
	}
	return m
}

func hasPrediction(in Input, k Key) bool {
	return slices.ContainsFunc(in.Claims, func(c Claim) bool { return c.Key == k && c.Author == Prediction })
}

// tighten makes one thing in the input tighter and says of which key it is, and
// whether it is an annotation.
func tighten(t *rapid.T, in Input) (out Input, k Key, amends bool) {
	lower := func(v Value) Value { return v - Value(rapid.IntRange(0, 3).Draw(t, "by")) }
	in.Claims, in.Guards = slices.Clone(in.Claims), slices.Clone(in.Guards)
	if len(in.Guards) == 0 || rapid.Bool().Draw(t, "claim") {
		c := &in.Claims[rapid.IntRange(0, len(in.Claims)-1).Draw(t, "which")]
		c.Value = lower(c.Value)
		return in, c.Key, c.Author == Request && c.Amends
	}
	g := &in.Guards[rapid.IntRange(0, len(in.Guards)-1).Draw(t, "which")]
	switch {
	case g.Floor != nil && rapid.Bool().Draw(t, "floor"):
		g.Floor = at(lower(*g.Floor))
	case g.Ceiling != nil:
		g.Ceiling = at(lower(*g.Ceiling))
	default:
		g.Ceiling = at(drawValue(t, g.Key))
	}
	return in, g.Key, false
}

// Law: no prediction is looser than the request it meets: the spec, or the
// annotation that amends it. Only a site that prefers predictions, an operator
// or a floor can lift a value above the request.
func TestLawPredictionNeverLoosensARequest(t *testing.T) {
	rapid.Check(t, lawPredictionNeverLoosensARequest)
}

func lawPredictionNeverLoosensARequest(t *rapid.T) {
	in := drawInput(t)
	result := Merge(in)
	for k, now := range values(result) {
		request, asked := requestOf(in, k)
		if asked && (hasPrediction(in, k) || !amendsOnly(in, k)) && !mayLift(in, k) && now > request {
			t.Fatalf("%s is %d, requested was %d", k, now, request)
		}
	}
}

// requestOf is what the claims request for k: the spec's value tightened by the
// annotation, or loosened by it where that is granted.
func requestOf(in Input, k Key) (v Value, asked bool) {
	lowest := func(amends bool) (v Value, ok bool) {
		v = Unlimited
		for _, c := range in.Claims {
			if c.Key == k && c.Author == Request && c.Amends == amends {
				v, ok = min(v, c.Value), true
			}
		}
		return v, ok
	}
	spec, hasSpec := lowest(false)
	amend, amended := lowest(true)
	family, _ := k.Family()
	granted := slices.Contains(in.Grants, k) || slices.Contains(in.Grants, family)
	switch {
	case hasSpec && amended && granted:
		return amend, true
	case hasSpec:
		return min(spec, amend), true
	}
	return amend, amended
}

func amendsOnly(in Input, k Key) bool {
	return !slices.ContainsFunc(in.Claims, func(c Claim) bool { return c.Key == k && c.Author == Request && !c.Amends })
}

func mayLift(in Input, k Key) bool {
	return ruleOf(in, k) == PreferPrediction || guardsOf(in)[k].floor != nil ||
		slices.ContainsFunc(in.Claims, func(c Claim) bool { return c.Key == k && c.Author == Operator }) ||
		Merge(in).Mode() == ModeObserve && amendsOnly(in, k)
}

// Law: nothing vanishes. Each claim for a known key either is the field's value or is
// among its losers with a reason, and nothing else is; every value has an
// author and a source.
func TestLawNothingVanishes(t *testing.T) {
	type said struct {
		Key
		Value
		Origin
	}
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		want, got := make(map[said]int), make(map[said]int)
		unique := make(map[Claim]bool)
		for _, c := range append(slices.Clone(in.Claims), defaultMode) {
			implied := c == defaultMode && slices.ContainsFunc(in.Claims, func(c Claim) bool { return c.Key == KeyMode && c.Author == Default })
			c.Amends = c.amends()
			if c.Key.Known() && !unique[c] && !implied {
				unique[c] = true
				want[said{c.Key, c.Value, c.Origin}]++
			}
		}
		for k, f := range memberFields(Merge(in)) {
			if !f.NoValue {
				if f.Source == "" {
					t.Fatalf("%s has a value and no source", k)
				}
				if !(f.Author == Guardrail && f.Reason == "nothing looser is allowed" || f.Reason == "nothing tighter is allowed") {
					got[said{k, f.Value, f.Origin}]++
				}
			}
			for _, l := range f.Lost {
				if l.Why == "" {
					t.Fatalf("%s: %+v lost without a reason", k, l)
				}
				if l.Reason != "nothing tighter is allowed" { // a floor above the ceiling
					got[said{k, l.Value, l.Origin}]++
				}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("result speaks of\n%v\nclaimed was\n%v", got, want)
		}
	})
}

// Law: in observe mode no default and no prediction decides anything but the mode.
func TestLawObserveAppliesNoGuess(t *testing.T) { rapid.Check(t, lawObserveAppliesNoGuess) }

func lawObserveAppliesNoGuess(t *rapid.T) {
	in := drawInput(t)
	in.Claims = append(in.Claims, Claim{Key: KeyMode, Value: ModeObserve, Origin: by(Operator, "op")})
	in.Guards = slices.DeleteFunc(in.Guards, func(g Guard) bool { return g.Key == KeyMode })
	in.Claims = slices.DeleteFunc(in.Claims, func(c Claim) bool {
		return c.Key == KeyMode && c.Author == Operator && c.Source != "op"
	})
	for k, f := range memberFields(Merge(in)) {
		if k != KeyMode && !f.NoValue && f.Author <= Prediction {
			t.Fatalf("%s was decided by %+v", k, f.Origin)
		}
	}
}

// TestLawTotal merges inputs no sane caller makes.
func TestLawTotal(t *testing.T) {
	for i, in := range []Input{
		{},
		{Claims: []Claim{{}}},
		{Claims: []Claim{{Key: KeyMode, Value: -5}}},
		{Claims: []Claim{{Key: KeyPIDs, Value: -1 << 63, Origin: Origin{Author: 255}}}},
		{Guards: []Guard{{}, {Key: KeyMode}, {Key: KeyPIDs, Floor: at(-1), Ceiling: at(-2)}}},
		{Claims: []Claim{{Key: KeyPIDs, Value: 7}}, Grants: []Key{"", "x"}, Prefer: map[Dimension]Prefer{"x": "y", Resources: ""}},
	} {
		e := Merge(in)
		if len(e.Fields) == 0 || e.Fields[0].Key != KeyMode {
			t.Errorf("input %d: %+v", i, e)
		}
		if s := fmt.Sprint(e); len(s) == 0 {
			t.Error("unprintable")
		}
	}
	// A value without a source is still a value.
	e := Merge(Input{Claims: []Claim{{Key: KeyPIDs, Value: 7}}, Guards: []Guard{{Key: KeyMemory, Ceiling: at(9)}}})
	if e.Value(KeyPIDs, 0) != 7 || e.Value(KeyMemory, 0) != 9 {
		t.Errorf("got %+v", e)
	}
}

// FuzzMerge searches for inputs that break a law where rapid only draws them.
// Law: of two policies, what is to be replaced is as the newer has it and all else as the older, folded as Merge folds; and nothing but what has
// another value is told of.
func TestLawReplaceOnly(t *testing.T) { rapid.Check(t, lawReplaceOnly) }

func lawReplaceOnly(t *rapid.T) {
	older, newer := Merge(drawInput(t)), Merge(drawInput(t))
	in := make(map[Key]bool)
	for _, k := range rapid.SliceOf(rapid.SampledFrom(lawKeys)).Draw(t, "replaced") {
		in[k] = true
	}
	got, was, is := older.ReplaceOnly(in, newer), memberFields(older), memberFields(newer)
	want := make(map[Key]Field)
	for _, k := range lawKeys {
		f, ok := was[k]
		if in[k] {
			f, ok = is[k]
		}
		if ok {
			want[k] = f
		}
	}
	all := memberFields(got)
	if len(all) != len(want) {
		t.Fatalf("%d keys, not %d: %+v", len(all), len(want), got)
	}
	for k, f := range want {
		if g := all[k]; !f.alike(&g) {
			t.Fatalf("%s: %+v, not %+v", k, g, f)
		}
	}
	for i := range got.Fields {
		for j := range i {
			if got.Fields[i].alike(&got.Fields[j]) {
				t.Fatalf("not folded: %+v", got)
			}
		}
	}
	rest := older
	for _, d := range older.Differing(got) {
		rest = rest.Replace(d, got)
	}
	if !rest.Equal(got) {
		t.Fatalf("%+v and\n%+v differ in more than %v", older, got, older.Differing(got))
	}
	told := older.Diff(got, func(Key) bool { return true })
	for _, k := range slices.DeleteFunc(slices.Clone(lawKeys), func(k Key) bool { return !k.Known() }) {
		a, decided := older.Lookup(k)
		b, still := got.Lookup(k)
		if (decided != still || a.Value != b.Value) != slices.ContainsFunc(told, func(line string) bool { return strings.HasPrefix(line, string(k)+" ") }) {
			t.Fatalf("%s was %+v and is %+v, told is %q", k, a, b, told)
		}
	}
}

func FuzzMerge(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		lawGuardrailsDominate(t)
		lawTighteningNeverLoosens(t)
		lawPredictionNeverLoosensARequest(t)
		lawObserveAppliesNoGuess(t)
	}))
}
