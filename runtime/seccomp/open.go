package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// open turns a compiled profile that denies by default into one that allows by
// default and lists what it denies or asks about. Calls that have a name mean the same
// as before; one without a name (newer than this program or libseccomp) passes, as
// it does where nobody filters. It is for containers whose request has no profile
// or one that allows by default.
//
// What it is good for is the length of the list: runc compiles every rule for every
// architecture anew at each start, and libseccomp's time grows faster than the list
// (docs/decisions/0009).
//
// A profile in which a call is decided by conditions that leave a remainder stays as it
// is: the remainder could not be listed.
func (p *plan) open() {
	pass := specs.ActAllow
	if permissive(p.widest) {
		pass = p.widest
	}
	for _, s := range p.out {
		if len(s.Args) > 0 && !p.complete[s.Names[0]] {
			return
		}
	}
	listed := make(map[string]bool)
	for _, s := range p.out {
		for _, name := range s.Names {
			listed[name] = true
		}
	}
	p.out = slices.DeleteFunc(p.out, func(s specs.LinuxSyscall) bool { return s.Action == pass })
	var rest []string
	for _, name := range p.candidates() {
		if !listed[name] {
			rest = append(rest, name)
		}
	}
	if len(rest) > 0 {
		p.out = append(p.out, specs.LinuxSyscall{Names: rest, Action: p.defaults.action, ErrnoRet: clone(p.defaults.errno)})
	}
	p.defaults = rule{action: pass}
}
