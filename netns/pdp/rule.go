package pdp

import (
	"fmt"
	"slices"

	"cel.dev/cel-go/cel"

	"forefend.dev/forefend/netns/flow"
)

// Bounds of a Set.
const (
	MaxRules   = 10_000
	MaxName    = 64 // bytes of a rule's name
	maxClasses = 32 // of data that rules name, without a default for requests whose class is unknown
)

// Rule is one rule as it was written.
type Rule struct {
	Name    string
	Source  string       // where it was written, for people: "pay.toml:12"
	When    string       // the condition, in CEL
	Profile flow.Profile // its Rates' Rule is filled in by Compile
}

// Options are what a Set answers where rules say nothing, and what it adds to what they say.
type Options struct {
	Amend   []Rule        // the site's own, merged with the rules that apply, or with the default: alone they let nothing pass
	Default flow.Profile  // no rule applies
	Lookups *flow.Profile // the same of queries for names; nil: Default
	Data    string        // the class of data that is unknown; empty: the strictest of those that rules name
	Version string        // of the rules, as decisions tell it
}

// Problem is something wrong with one rule.
type Problem struct {
	Rule    int // its index; those of Options.Amend come after the rules; -1: all of them
	Offset  int // in bytes of When; -1: not in there
	Message string
}

// Set is compiled rules.
type Set struct {
	rules   []rule
	index   index
	options Options
	classes []string // of data, that a request of unknown class is decided as; nil: the default
	horizon horizon
	memo    memo
}

type rule struct {
	Rule
	amends  bool // one of Options.Amend
	when    node
	program cel.Program // nil: when says all
}

// Compile checks rules and makes a Set of them. It returns all that is wrong, in order, and no Set if there is anything.
func Compile(rules []Rule, o Options) (*Set, []Problem) {
	written := len(rules)
	rules = slices.Concat(rules, o.Amend)
	if len(rules) > MaxRules {
		return nil, []Problem{{Rule: -1, Offset: -1, Message: fmt.Sprintf("%d rules, the most is %d", len(rules), MaxRules)}}
	}
	s := &Set{options: o, rules: make([]rule, len(rules))}
	s.options.Default = Join(o.Default, o.Default) // one that denies has no other field
	if o.Lookups != nil {
		one := Join(*o.Lookups, *o.Lookups)
		s.options.Lookups = &one
	}
	var problems []Problem
	named := make(map[string]string)
	known := make(map[string]struct{})
	frequency := make(map[key]int)
	for i, r := range rules {
		report := func(offset int, format string, args ...any) {
			problems = append(problems, Problem{Rule: i, Offset: offset, Message: fmt.Sprintf(format, args...)})
		}
		switch other, twice := named[r.Name]; {
		case r.Name == "" || len(r.Name) > MaxName:
			report(-1, "a rule needs a name of 1 to %d bytes", MaxName)
		case twice:
			report(-1, "the name %q is taken by the rule at %s", r.Name, other)
		}
		named[r.Name] = r.Source
		if len(r.When) > MaxCondition {
			report(0, "the condition has %d bytes, the most is %d", len(r.When), MaxCondition)
			continue
		}
		ast, problem := check(r.When)
		if problem != nil {
			report(problem.Offset, "%s", problem.Message)
			continue
		}
		s.rules[i] = s.compile(r, ast)
		s.rules[i].amends = i >= written
		s.rules[i].when.count(frequency)
		s.horizon.add(ast)
		classes(ast, known)
	}
	if o.Data == "" {
		s.classes = sortedKeys(known)
	}
	if len(s.classes) > maxClasses {
		problems = append(problems, Problem{Rule: -1, Offset: -1, Message: fmt.Sprintf(
			"rules name %d classes of data; with more than %d set egress.default_data in config.toml, the class of what is unknown", len(s.classes), maxClasses)})
	}
	if problems != nil {
		return nil, problems
	}
	for i := range s.rules {
		switch keys, cost := s.rules[i].when.choose(frequency); {
		case cost == noKeys:
			s.index.rest = append(s.index.rest, id(i))
		default:
			s.index.add(id(i), keys)
		}
	}
	return s, nil
}

// compile makes a rule of what was checked.
func (s *Set) compile(r Rule, ast *cel.Ast) rule {
	r.Profile.Rates = slices.Clone(r.Profile.Rates)
	for i := range r.Profile.Rates {
		r.Profile.Rates[i].Rule = r.Name
	}
	r.Profile = Join(r.Profile, r.Profile)
	out := rule{Rule: r, when: extract(ast.NativeRep().Expr(), false)}
	if out.when.hasOpaque() {
		out.program = must(language().Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost)))
	}
	return out
}

// Len is how many rules there are.
func (s *Set) Len() int { return len(s.rules) }

// Asks tells whether any condition has to do with one of the fields: whether it is worth finding out, or telling of its change.
func (s *Set) Asks(f flow.Field) bool { return slices.Contains(s.horizon.asks.names(), f) }
