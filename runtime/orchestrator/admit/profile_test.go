package admit

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/seccomp"
)

// reporter is testing.TB and rapid.T.
type reporter interface {
	Errorf(string, ...any)
	Fatalf(string, ...any)
}

func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

func tableOf(t reporter, d api.Decision) *seccomp.Table {
	if d.Seccomp == nil {
		t.Fatalf("no profile: %q", d.Notes)
	}
	var table seccomp.Table
	if err := table.UnmarshalBinary(d.Table); err != nil {
		t.Fatalf("table: %v", err)
	}
	return &table
}

// passes says what the kernel, and the supervisor with table where the kernel asks, does with one call. It is a model of
// OCI profiles of its own; where several rules match it takes the strictest.
func passes(t reporter, p *specs.LinuxSeccomp, table *seccomp.Table, name string, args [6]uint64) bool {
	matched, pass := false, true
	for _, rule := range p.Syscalls {
		if slices.Contains(rule.Names, name) && hold(t, rule.Args, args) {
			matched, pass = true, pass && actionPasses(t, rule.Action, table, name, args)
		}
	}
	if !matched {
		return actionPasses(t, p.DefaultAction, table, name, args)
	}
	return pass
}

func actionPasses(t reporter, a specs.LinuxSeccompAction, table *seccomp.Table, name string, args [6]uint64) bool {
	if a == specs.ActNotify {
		nr, ok := seccomp.Number(name)
		if !ok || table == nil {
			t.Fatalf("nobody can answer for %s", name)
		}
		return table.Decide(int32(nr), auditArch(), &args).Verdict == seccomp.Watch
	}
	return a == specs.ActAllow || a == specs.ActLog
}

func hold(t reporter, conditions []specs.LinuxSeccompArg, args [6]uint64) bool {
	for _, c := range conditions {
		v, ok := args[c.Index], false
		switch c.Op {
		case specs.OpEqualTo:
			ok = v == c.Value
		case specs.OpNotEqual:
			ok = v != c.Value
		case specs.OpMaskedEqual:
			ok = v&c.Value == c.ValueTwo
		case specs.OpLessThan:
			ok = v < c.Value
		case specs.OpLessEqual:
			ok = v <= c.Value
		case specs.OpGreaterThan:
			ok = v > c.Value
		case specs.OpGreaterEqual:
			ok = v >= c.Value
		default:
			t.Fatalf("operator %s", c.Op)
		}
		if !ok {
			return false
		}
	}
	return true
}

// interesting are first arguments at which rules of real profiles divide.
var interesting = []uint64{0, 1, unix.AF_INET, unix.AF_ALG, unix.AF_VSOCK, 8, 0x20000, unix.CLONE_NEWUSER, unix.CLONE_NEWNS | unix.CLONE_VM, 0xffffffff, unix.PR_SET_VMA}

// neverWider fails where the decision lets a call pass that the requested profile stops.
func neverWider(t reporter, requested *specs.LinuxSeccomp, d api.Decision) {
	table := tableOf(t, d)
	for _, name := range seccomp.Names() {
		for _, first := range interesting {
			args := [6]uint64{first}
			if passes(t, d.Seccomp, table, name, args) && !passes(t, requested, nil, name, args) {
				t.Errorf("%s(%#x) passes, and the requested profile stops it", name, first)
			}
		}
	}
}
