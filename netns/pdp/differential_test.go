package pdp

import (
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"forefend.dev/forefend/netns/flow"
)

// plain decides without index, extraction or memo: each condition is asked of CEL.
type plain struct {
	rules    []Rule
	programs []cel.Program
	options  Options
	classes  []string
}

func newPlain(t testing.TB, rules []Rule, o Options, classes []string) *plain {
	p := &plain{rules: rules, options: o, classes: classes}
	for _, r := range rules {
		ast, issues := language().Compile(r.When)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", r.When, issues.Err())
		}
		program, err := language().Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		p.programs = append(p.programs, program)
	}
	return p
}

// decide returns the profile and the names of the rules that apply, of those that cannot be evaluated too.
func (p *plain) decide(c flow.Context, at Moment) (flow.Profile, []string) {
	if c.UserProof != flow.Claimed && c.UserProof != flow.Verified {
		c.User, c.UserProof = c.Workload, flow.Workload
	}
	classes := []string{c.Data}
	if c.Data == "" {
		if classes[0] = p.options.Data; classes[0] == "" {
			classes = append(classes, p.classes...)
		}
	}
	var profiles []flow.Profile
	var names []string
	user, proof, host, said := c.User, c.UserProof, c.Host, c.HostProof
	for _, class := range classes {
		c.Data = class
		for _, named := range []bool{true, false} {
			c.Host, c.HostProof = host, said
			if !named {
				c.Host, c.HostProof = "", ""
			}
			if !named && said != flow.Claimed {
				continue
			}
			c.User, c.UserProof = user, proof
			profiles, names = p.readNames(c, at, profiles, names, named)
			if proof == flow.Claimed {
				c.User, c.UserProof = c.Workload, flow.Workload
				profiles, names = p.readNames(c, at, profiles, names, named)
			}
		}
	}
	joined := profiles[0]
	for _, other := range profiles {
		joined = Join(joined, other)
	}
	slices.Sort(names)
	return joined, slices.Compact(names)
}

// readNames reads a context as of each of the names that its host may be: the rules of all of them, or the default if no rule applies to any.
func (p *plain) readNames(c flow.Context, at Moment, profiles []flow.Profile, names []string, named bool) ([]flow.Profile, []string) {
	if !named || c.Host != "" || c.Names == nil {
		return p.read(c, at, profiles, names)
	}
	var byRule, byDefault []flow.Profile
	for _, name := range c.Names {
		c.Host = name
		got, rules := p.read(c, at, nil, nil)
		if rules == nil {
			byDefault = got
		} else {
			byRule, names = append(byRule, got...), append(names, rules...)
		}
	}
	if byRule == nil {
		byRule = byDefault
	}
	return append(profiles, byRule...), names
}

func (p *plain) read(c flow.Context, at Moment, profiles []flow.Profile, names []string) ([]flow.Profile, []string) {
	var r reading
	r.fill(&c, at)
	vars := make(map[string]any)
	for f := range fields {
		vars[variables[f].name] = r.value(f)
	}
	before := len(profiles)
	for i, program := range p.programs {
		out, _, err := program.Eval(vars)
		switch {
		case err != nil:
			profiles, names = append(profiles, flow.Profile{Deny: true}), append(names, p.rules[i].Name)
		case out == types.True:
			rule := p.rules[i].Profile
			for j := range rule.Rates {
				rule.Rates[j].Rule = p.rules[i].Name
			}
			profiles, names = append(profiles, rule), append(names, p.rules[i].Name)
		}
	}
	if len(profiles) == before {
		if c.Protocol == flow.DNS && p.options.Lookups != nil {
			return append(profiles, *p.options.Lookups), names
		}
		profiles = append(profiles, p.options.Default)
	}
	return profiles, names
}

// scramble changes every field of a Context that a decision does not depend on.
func scramble(c chance, x flow.Context, at Moment, depends []flow.Field) (flow.Context, Moment) {
	other, then := c.context(), c.moment()
	has := func(f flow.Field) bool { return slices.Contains(depends, f) }
	keep := reflect.ValueOf(&other).Elem()
	for name, f := range map[string]flow.Field{
		"Namespace": flow.FieldNamespace, "Workload": flow.FieldWorkload, "Image": flow.FieldImage, "Container": flow.FieldContainer,
		"Risk": flow.FieldRisk, "Protocol": flow.FieldProtocol, "User": flow.FieldUser, "UserProof": flow.FieldUserProof, "Data": flow.FieldData,
		"Operation": flow.FieldOperation, "Host": flow.FieldHost, "Names": flow.FieldHost, "HostProof": flow.FieldHostProof, "Method": flow.FieldMethod, "Path": flow.FieldPath, "Service": flow.FieldService,
		"Process": flow.FieldProcess,
	} {
		if has(f) {
			keep.FieldByName(name).Set(reflect.ValueOf(x).FieldByName(name))
		}
	}
	addr, port := other.Destination.Addr(), other.Destination.Port()
	if has(flow.FieldDestination) {
		addr = x.Destination.Addr()
	}
	if has(flow.FieldPort) {
		port = x.Destination.Port()
	}
	other.Destination = addrPort(addr, port)
	if has(flow.FieldTime) {
		then.Now = at.Now
	}
	if has(flow.FieldLoad) {
		then.Load = at.Load
	}
	return other, then
}

// pairs is how many (rules, context) pairs TestDifferential tries; `make test-rules` asks for a million.
func pairs(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("FOREFEND_RULE_PAIRS")); err == nil {
		return n
	}
	if testing.Short() {
		return 5_000
	}
	return 20_000
}

// TestDifferential compares decisions over random rules and contexts with those of plain CEL, and with those about other
// contexts that are the same where the decision says that it depends on them.
func TestDifferential(t *testing.T) {
	const contexts = 50
	c := chance{rand.New(rand.NewPCG(1, 2))}
	todo, applied, denied, depended := pairs(t), 0, 0, 0
	for done := 0; done < todo; done += contexts {
		rules := c.rules(1 + c.IntN(20))
		o := Options{Default: flow.Profile{Encryption: flow.Standard, Rates: []flow.Rate{{Bytes: 5, Scope: flow.PerUser}}}, Data: c.of("", "internal")}
		if c.IntN(2) == 0 {
			o.Lookups = &flow.Profile{QoS: flow.QoSBulk}
		}
		s, problems := Compile(rules, o)
		if problems != nil {
			t.Fatalf("%+v: %s", problems, rules[problems[0].Rule].When)
		}
		p := newPlain(t, rules, o, s.classes)
		for range contexts {
			x, at := c.context(), c.moment()
			got := s.Decide(&x, at)
			profile, names := p.decide(x, at)
			matched := make([]string, 0, len(got.Matches))
			for _, m := range got.Matches {
				matched = append(matched, m.Rule)
			}
			slices.Sort(matched)
			if !reflect.DeepEqual(got.Profile, profile) || !slices.Equal(slices.Compact(matched), names) {
				t.Fatalf("got %+v by %v, plain CEL says %+v by %v\n%+v\n%+v", got.Profile, matched, profile, names, x, rules)
			}
			other, then := scramble(c, x, at, got.Depends)
			again := s.Decide(&other, then)
			again.Valid = got.Valid // goes by the moment
			if !reflect.DeepEqual(again, got) {
				t.Fatalf("%+v\nis not\n%+v\nalthough it depends on %v\n%+v\n%+v\n%+v", again, got, got.Depends, x, other, rules)
			}
			applied += len(names)
			depended += len(got.Depends)
			if profile.Deny {
				denied++
			}
		}
	}
	t.Logf("%d pairs, %d rules applied, %d denials, %.1f fields depended on each", todo, applied, denied, float64(depended)/float64(todo))
	if applied < todo/2 || denied < todo/100 || denied > todo*9/10 {
		t.Error("the rules and contexts hardly meet")
	}
}
