package policy

import "cmp"

// guard is the sum of all Guards on one key: the highest floor and the lowest
// ceiling, each with where it came from.
type guard struct {
	floor, ceiling             *Value
	floorSource, ceilingSource string
}

func (sum *guard) add(g Guard) {
	if g.Floor != nil && (sum.floor == nil || cmp.Or(cmp.Compare(*sum.floor, *g.Floor), cmp.Compare(g.Source, sum.floorSource)) < 0) {
		sum.floor, sum.floorSource = g.Floor, g.Source
	}
	if g.Ceiling != nil && (sum.ceiling == nil || cmp.Or(cmp.Compare(*g.Ceiling, *sum.ceiling), cmp.Compare(g.Source, sum.ceilingSource)) < 0) {
		sum.ceiling, sum.ceilingSource = g.Ceiling, g.Source
	}
}

// clamp moves f's value into the guard and reports whether it did. Without a
// value only a ceiling applies: an absent claim means unlimited, and no floor
// is tighter than that. Where both apply the ceiling comes last and holds.
func (g *guard) clamp(f *Field, has bool) bool {
	moved := false
	set := func(to Value, source, reason, why string) {
		if has {
			f.lose(&Claim{Value: f.Value, Origin: f.Origin}, why)
		}
		f.Value, f.Origin = to, Origin{Author: Guardrail, Source: source, Reason: reason}
		moved = true
	}
	if has && g.floor != nil && f.Value < *g.floor {
		set(*g.floor, g.floorSource, "nothing tighter is allowed", "tighter than the floor")
	}
	if g.ceiling != nil && (!has || f.Value > *g.ceiling) {
		set(*g.ceiling, g.ceilingSource, "nothing looser is allowed", "looser than the ceiling")
	}
	return moved
}
