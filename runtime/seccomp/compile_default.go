package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// underAllowingDefault rewrites the rules of one call of a profile that allows by
// default into rules that mean the same under a default that denies. Where that
// cannot be written down as rules it asks the supervisor about every such call
// and reports done.
func (p *plan) underAllowingDefault(name string, rules []rule) (rewritten []rule, done bool, err error) {
	unconditional := slices.ContainsFunc(rules, func(r rule) bool { return len(r.args) == 0 })
	if unconditional {
		return rules, false, nil
	}
	// Conditional rules that allow add nothing to a default that does.
	denying := slices.DeleteFunc(slices.Clone(rules), rule.permissive)
	rest := rule{action: p.widest}
	switch {
	case len(denying) == 0:
		return []rule{rest}, false, nil
	case len(denying) == 1 && len(denying[0].args) == 1 && name != "clone":
		rewritten = denying
		for _, arg := range negate(denying[0].args[0]) {
			rewritten = append(rewritten, rule{action: rest.action, args: []specs.LinuxSeccompArg{arg}})
		}
		p.complete[name] = true
		return rewritten, false, nil
	}
	return nil, true, p.askAlways(name, denying)
}

// askAlways watches every use of the call; the table holds the conditions.
func (p *plan) askAlways(name string, denying []rule) error {
	if _, known := Number(name); !known {
		p.emit(name, denying...) // the rest of its uses gets the new default
		return nil
	}
	v, _ := p.verdict(name)
	if indispensable(name) || v == Kill {
		return fmt.Errorf("%w: it denies %s by several conditions", ErrUnsupportedProfile, name)
	}
	e := entry{verdict: min(v, Watch), otherwise: followVerdict, outside: uint16(unix.EPERM)}
	// Where several conditions hold libseccomp picks one; here the hardest counts.
	slices.SortStableFunc(denying, func(a, b rule) int { return int(b.outcome()) - int(a.outcome()) })
	for _, r := range denying {
		ways, err := alternatives(r.args)
		if err != nil {
			return err
		}
		if r.action == specs.ActErrno && r.errno != nil && *r.errno > 0 && *r.errno < 4096 {
			e.outside = uint16(*r.errno)
		}
		for _, w := range ways {
			e.clauses = append(e.clauses, clause{outcome: r.outcome(), conditions: w})
		}
	}
	if len(e.clauses) > maxClauses {
		return fmt.Errorf("%w: %d conditions on %s", ErrUnsupportedProfile, len(e.clauses), name)
	}
	if name == "clone" {
		e.verdict, e.flags = Watch, flagUnshare
		e.clauses = append(e.clauses, clause{outcome: alwaysPass, conditions: []condition{{op: opMaskedEqual, value: namespaceFlags}}})
	}
	p.emit(name, rule{action: specs.ActNotify})
	p.record(name, e)
	return nil
}

// outcome is what the supervisor does instead of the filter where r, which denies,
// applies. It cannot send SIGSYS or call a tracer; an errno is as strict.
func (r rule) outcome() outcome {
	switch r.action {
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread:
		return alwaysKill
	}
	return alwaysDeny
}
