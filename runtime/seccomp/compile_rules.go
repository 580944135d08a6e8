package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What becomes of the rules a profile has for one call:
//
//   - rules that deny (ERRNO, KILL, TRAP, TRACE) stay;
//   - rules that allow (ALLOW, LOG) keep their argument conditions. Native keeps
//     their action too. Watch *and Deny* become NOTIFY: a denial in the kernel
//     could neither be seen nor lifted on a running container. Kill becomes
//     KILL_PROCESS, so that it holds without a supervisor;
//   - calls runc needs before anybody answers stay as they are, or Compile fails
//     when a verdict explicitly denies one; execve is never below the watch, since
//     the first one is what ends runc's own phase;
//   - clone and clone3 are treated in namespaces.go, prctl below.
//
// In addition dangerous calls that the requested profile denies by its default
// errno become NOTIFY with a table entry that can never allow, unless the profile is Ours (showDenials), so
// that an attack is seen and not only stopped.

// call compiles the rules of one mentioned call.
func (p *plan) call(name string) error {
	rules := p.rules[name]
	if permissive(p.widest) {
		var done bool
		var err error
		if rules, done, err = p.underAllowingDefault(name, rules); err != nil || done {
			return err
		}
	}
	if !slices.ContainsFunc(rules, rule.permissive) {
		p.emit(name, rules...)
		return nil
	}
	rules = collapse(rules)
	v, explicit := p.verdict(name)
	switch {
	case indispensable(name):
		if explicit && v < Watch {
			return fmt.Errorf("verdict %s: %w", v, ErrIndispensable)
		}
		p.emit(name, rules...)
		return nil
	case name == "clone":
		return p.clone(rules)
	case name == "clone3":
		return p.clone3(rules)
	case name == "execve" && v == Kill:
		return fmt.Errorf("verdict %s: %w", v, ErrIndispensable)
	case name == "execve" || name == "execveat":
		v = min(v, Watch)
	case name == "prctl" && len(rules) == 1 && len(rules[0].args) == 0 && (v == Watch || v == Deny):
		return p.prctl(rules[0], v)
	}
	return p.apply(name, rules, v)
}

// collapse drops conditional rules beside an unconditional one when all allow.
func collapse(rules []rule) []rule {
	always := slices.IndexFunc(rules, func(r rule) bool { return len(r.args) == 0 })
	if always < 0 || slices.ContainsFunc(rules, func(r rule) bool { return !r.permissive() }) {
		return rules
	}
	return rules[always : always+1]
}

// apply emits rules under verdict v and records v in the table.
func (p *plan) apply(name string, rules []rule, v Verdict) error {
	clauses, err := conditional(rules)
	if err != nil {
		return err
	}
	if len(clauses) > 0 && (v == Watch || v == Deny) && p.defaults.action == specs.ActErrno {
		// The supervisor checks the conditions: attempts outside them show, and runc has one rule to
		// compile instead of many (on socket and its 32-bit relatives alone they cost 4 ms a start).
		rules = []rule{{action: specs.ActAllow}}
	}
	p.emit(name, turned(rules, v)...)
	if v == Watch || v == Deny {
		p.record(name, entry{verdict: v, clauses: clauses, otherwise: alwaysDeny})
	}
	return nil
}

// turned returns rules with the action of v where they allow.
func turned(rules []rule, v Verdict) []rule {
	out := slices.Clone(rules)
	for i, r := range out {
		switch {
		case !r.permissive() || v == Native:
		case v == Kill:
			out[i] = rule{action: specs.ActKillProcess, args: r.args}
		default:
			out[i] = rule{action: specs.ActNotify, args: r.args}
		}
	}
	return out
}

// conditional returns a clause for each way in which rules allow, when they do so
// under conditions only. Where denying rules are mixed in it returns none: the
// filter alone weighs those, and asks only about calls that it would let pass.
func conditional(rules []rule) ([]clause, error) {
	var clauses []clause
	for _, r := range rules {
		if !r.permissive() || len(r.args) == 0 {
			return nil, nil
		}
		ways, err := alternatives(r.args)
		if err != nil {
			return nil, err
		}
		for _, w := range ways {
			clauses = append(clauses, clause{outcome: followVerdict, conditions: w})
		}
	}
	if len(clauses) > maxClauses {
		return nil, fmt.Errorf("%w: %d conditions", ErrUnsupportedProfile, len(clauses))
	}
	return clauses, nil
}

// record puts e into the table for every architecture that has the call.
func (p *plan) record(name string, e entry) {
	e.flags |= flagPresent
	if e.errno == 0 {
		e.errno = uint16(unix.EPERM)
	}
	if e.verdict == Deny && e.flags&flagFixed == 0 && slices.Contains(p.req.Kin, name) {
		e.flags |= ExceptKin.flags(name)
	}
	if e.verdict == Deny && e.flags&flagFixed == 0 && slices.Contains(p.req.Own, name) {
		e.flags |= ExceptExecuted.flags(name)
	}
	if e.outside == 0 {
		e.outside = p.deniedErrno()
	}
	if nr, ok := nativeNumbering().byName[name]; ok {
		p.table.native = place(p.table.native, nr, e)
	}
	if nr, ok := foreignNumbering().byName[name]; ok && p.foreign {
		p.table.foreign = place(p.table.foreign, nr, e)
	}
}

func place(entries []entry, nr int, e entry) []entry {
	if nr >= len(entries) {
		entries = append(entries, make([]entry, nr+1-len(entries))...)
	}
	entries[nr] = e
	return entries
}

// deniedErrno is what the requested profile answers to calls it denies.
func (p *plan) deniedErrno() uint16 {
	if e := p.req.Requested.DefaultErrnoRet; e != nil && p.widest == specs.ActErrno && *e > 0 && *e < 4096 {
		return uint16(*e)
	}
	return uint16(unix.EPERM)
}

// prctl keeps PR_SET_VMA, with which Go's runtime names new memory, out of the
// watch: runc might wait for an answer to it before anybody can give one.
func (p *plan) prctl(r rule, v Verdict) error {
	vma := specs.LinuxSeccompArg{Index: 0, Value: unix.PR_SET_VMA, Op: specs.OpEqualTo}
	p.emit("prctl", rule{action: r.action, args: []specs.LinuxSeccompArg{vma}}, rule{action: specs.ActNotify, args: negate(vma)})
	p.complete["prctl"] = true
	p.record("prctl", entry{verdict: v})
	return nil
}

// showDenials turns default denials of dangerous calls into visible ones, and
// gives clone3 the errno that makes C libraries fall back to clone. Only where the
// default answers an errno (a default that kills stays the stronger answer), and
// only up to the highest number the profile mentions: above it runc answers
// ENOSYS to calls "newer than the profile", and a higher number would turn that
// into EPERM for all calls between, which breaks fallbacks of C libraries.
func (p *plan) showDenials() {
	if p.defaults.action != specs.ActErrno || permissive(p.widest) {
		return
	}
	native, foreign := p.highest()
	for _, name := range p.candidates() {
		if _, mentioned := p.rules[name]; mentioned || !within(nativeNumbering(), name, native) || p.foreign && !within(foreignNumbering(), name, foreign) {
			continue
		}
		if name == "clone3" {
			p.emit(name, rule{action: specs.ActErrno, errno: ptr(uint(unix.ENOSYS))})
		} else if Classify(name) == ClassDangerous {
			p.emit(name, rule{action: specs.ActNotify})
			e := entry{verdict: Deny, flags: flagFixed}
			if p.req.Ours {
				e.flags = 0
			}
			p.record(name, e)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// candidates are the calls of the architectures kept.
func (p *plan) candidates() []string {
	names := Names()
	if p.foreign {
		for _, row := range foreignSyscalls {
			if _, native := Number(row.name); !native {
				names = append(names, row.name)
			}
		}
	}
	return names
}

// highest returns the highest numbers that the profile mentions.
func (p *plan) highest() (native, foreign int) {
	for _, name := range p.names {
		if nr, ok := nativeNumbering().byName[name]; ok {
			native = max(native, nr)
		}
		if nr, ok := foreignNumbering().byName[name]; ok {
			foreign = max(foreign, nr)
		}
	}
	return native, foreign
}

func within(n numbering, name string, highest int) bool {
	nr, ok := n.byName[name]
	return !ok || nr <= highest
}
