package config

import (
	"fmt"
	"maps"
	"slices"

	"forefend.dev/forefend/runtime/policy"
)

// The words of a guardrail. What counts something has a least and a most; what
// has names, from strict to lax, has a tightest and a loosest.
const (
	wordMin      = "min"
	wordMax      = "max"
	wordTightest = "tightest"
	wordLoosest  = "loosest"
)

// guardLists are the lists that a guardrail may have: those that take away.
// One that gives would make a policy wider than was asked for.
var guardLists = []string{"syscalls.deny", "capabilities.drop", "masked_paths", "readonly_paths", "egress.block", "devices.deny", "io.read", "io.write"}

// guards reads [guardrails].
func (t *table) guards(source string) []policy.Guard {
	var out []policy.Guard
	for _, e := range t.entries([]string{wordMin, wordMax, wordTightest, wordLoosest}) {
		k := policy.Key(e.name)
		limits, isTable := e.value.(map[string]any)
		switch {
		case k.Known() && isTable:
			if g, ok := t.limits(e, k, limits); ok {
				g.Source = source
				out = append(out, g)
			}
		case k.Known() && k.Words() != nil:
			if v, ok := t.value(e.path, k, e.value); ok {
				out = append(out, policy.Guard{Key: k, Ceiling: &v, Source: source})
			}
		case k.Known():
			t.problem(e.path, fmt.Sprintf("write { max = %s }, { min = … } or both", example(k)), "does not say whether it is the least or the most")
		case slices.Contains(guardLists, e.name):
			t.members(e, func(k policy.Key, v policy.Value) {
				out = append(out, policy.Guard{Key: k, Ceiling: &v, Source: source})
			})
		case slices.Contains(policy.ListNames(), e.name):
			t.problem(e.path, "write it in [defaults], or let a profile grant it", "a guardrail takes away, this list gives")
		default:
			t.unknownEntry(e, guardLists)
		}
	}
	return out
}

// limits reads { min = …, max = … } or { tightest = …, loosest = … }.
func (t *table) limits(e entry, k policy.Key, limits map[string]any) (policy.Guard, bool) {
	g := policy.Guard{Key: k}
	tight, loose := wordMin, wordMax
	if k.Words() != nil {
		tight, loose = wordTightest, wordLoosest
	}
	ok := len(limits) > 0
	if !ok {
		t.problem(e.path, fmt.Sprintf("write { %s = %s } or remove it", loose, example(k)), "says nothing")
	}
	for _, word := range slices.Sorted(maps.Keys(limits)) {
		path := append(e.path[:len(e.path):len(e.path)], word)
		if word != tight && word != loose {
			t.problem(path, fmt.Sprintf("%s has %s and %s", k, tight, loose), "unknown key")
			ok = false
			continue
		}
		v, parsed := t.value(path, k, limits[word])
		ok = ok && parsed
		if word == tight {
			g.Floor = &v
		} else {
			g.Ceiling = &v
		}
	}
	if ok && g.Floor != nil && g.Ceiling != nil && *g.Floor > *g.Ceiling {
		t.problem(e.path, "exchange the two", "%s is beyond %s", tight, loose)
		return g, false
	}
	return g, ok
}
