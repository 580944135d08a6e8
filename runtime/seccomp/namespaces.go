package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the flags of clone that make namespaces. CLONE_NEWTIME is not
// among them: clone reads that bit as part of the exit signal.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// withoutNamespaces holds for a clone that makes a thread or a plain process.
var withoutNamespaces = specs.LinuxSeccompArg{Index: 0, Value: namespaceFlags, Op: specs.OpMaskedEqual}

// clone keeps plain clones native, since each thread is one, and asks about those
// that make namespaces. They follow the stricter of the verdicts of clone and
// unshare, or are denied where the requested profile denies them. Only an explicit
// verdict Deny or Kill for clone reaches plain clones too.
func (p *plan) clone(rules []rule) error {
	v, explicit := p.verdict("clone")
	if !explicit {
		v = max(v, Watch)
	}
	if len(rules) != 1 || v < Watch {
		return p.apply("clone", rules, v)
	}
	flags, isMask := maskOf(rules[0])
	if !isMask && len(rules[0].args) > 0 {
		return p.apply("clone", rules, v)
	}
	e := entry{verdict: v, otherwise: followVerdict, flags: flagUnshare}
	plain := withoutNamespaces
	if isMask {
		plain.Value = flags
		if p.defaults.action != specs.ActErrno || permissive(p.widest) {
			p.emit("clone", rules...)
			return nil
		}
		e = entry{verdict: Deny, otherwise: alwaysDeny, flags: flagFixed}
	} else if unshare, _ := p.verdict("unshare"); v == Native && unshare == Native {
		p.emit("clone", rules...)
		return nil
	}
	conditions, err := alternatives([]specs.LinuxSeccompArg{plain})
	if err != nil {
		return err
	}
	e.clauses = []clause{{outcome: alwaysPass, conditions: conditions[0]}}
	out := []rule{{action: rules[0].action, args: []specs.LinuxSeccompArg{plain}}}
	for _, bit := range negate(plain) {
		out = append(out, rule{action: specs.ActNotify, args: []specs.LinuxSeccompArg{bit}})
	}
	p.emit("clone", out...)
	p.complete["clone"] = true
	e.verdict = min(e.verdict, Watch)
	p.record("clone", e)
	return nil
}

// maskOf returns the flags that r wants absent from clone's first argument.
func maskOf(r rule) (flags uint64, ok bool) {
	if len(r.args) != 1 || r.args[0].Op != specs.OpMaskedEqual || r.args[0].Index != 0 || r.args[0].ValueTwo != 0 {
		return 0, false
	}
	return r.args[0].Value, true
}

// clone3 passes its flags behind a pointer, so nobody can see whether it makes
// namespaces. It answers ENOSYS, upon which C libraries use clone, unless the
// requested profile lets the container make namespaces and no verdict objects.
// Then it is watched, and switched off together with unshare.
func (p *plan) clone3(rules []rule) error {
	v, explicit := p.verdict("clone3")
	if !explicit {
		v = max(v, Watch)
	}
	unshare, _ := p.verdict("unshare")
	if !p.granted("unshare") || min(v, unshare) < Watch {
		missing := slices.Clone(rules)
		for i, r := range missing {
			if r.permissive() {
				missing[i] = rule{action: specs.ActErrno, errno: ptr(uint(unix.ENOSYS)), args: r.args}
			}
		}
		p.emit("clone3", missing...)
		return nil
	}
	p.emit("clone3", turned(rules, Watch)...)
	p.record("clone3", entry{verdict: Watch, flags: flagUnshare, errno: uint16(unix.ENOSYS)})
	return nil
}

// granted reports whether the requested profile allows the call in every case.
func (p *plan) granted(name string) bool {
	rules := p.rules[name]
	if len(rules) == 0 {
		return permissive(p.widest)
	}
	return !slices.ContainsFunc(rules, func(r rule) bool { return !r.permissive() || len(r.args) > 0 })
}
