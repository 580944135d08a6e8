package admit

import (
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// call is what holds of one system call in every decision.
type call struct {
	name  string
	key   policy.Key
	class seccomp.Class
}

// callTable is every native call, in the order of seccomp.Names.
type callTable struct {
	list  []call
	index map[string]int // in list, by name
}

// calls is made once: a decision looks at all 370 of them.
var calls = sync.OnceValue(func() callTable {
	names := seccomp.Names()
	t := callTable{list: make([]call, len(names)), index: make(map[string]int, len(names))}
	for i, name := range names {
		t.list[i] = call{name, policy.KeySyscalls.Member(name), seccomp.Classify(name)}
		t.index[name] = i
	}
	return t
})

// allowedBy says of each call of the table whether a profile allows it, under
// whatever conditions.
func (t callTable) allowedBy(profile *specs.LinuxSeccomp) []bool {
	allowed := make([]bool, len(t.list))
	if permissive(profile.DefaultAction) {
		for i := range allowed {
			allowed[i] = true
		}
	}
	for _, rule := range profile.Syscalls {
		for _, name := range rule.Names {
			i, known := t.index[name]
			switch {
			case !known:
			case permissive(rule.Action):
				allowed[i] = true
			case len(rule.Args) == 0 && permissive(profile.DefaultAction):
				allowed[i] = false
			}
		}
	}
	return allowed
}

func permissive(a specs.LinuxSeccompAction) bool { return a == specs.ActAllow || a == specs.ActLog }
