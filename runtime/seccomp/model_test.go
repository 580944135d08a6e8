package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// result is what happens to a call; a larger one is looser.
type result int

const (
	killed result = iota
	denied
	passed
)

// allowed lists the names a profile allows without conditions.
func allowed(profile *specs.LinuxSeccomp) map[string]bool {
	out := make(map[string]bool)
	for _, s := range profile.Syscalls {
		if !permissive(s.Action) || len(s.Args) > 0 {
			continue
		}
		for _, name := range s.Names {
			out[name] = true
		}
	}
	return out
}

// weigh is a model of runc and libseccomp, whose facts TestRootRuleOrder checks:
// the first unconditional rule wins, over conditional ones too; among those that
// match one is chosen by its conditions, neither by position nor by action; and
// else the default action counts.
func weigh(profile *specs.LinuxSeccomp, name string, args *[maxArgs]uint64) specs.LinuxSeccompAction {
	action, chosen := profile.DefaultAction, ""
	for _, s := range profile.Syscalls {
		if !slices.Contains(s.Names, name) || s.Action == profile.DefaultAction && s.ErrnoRet == nil && profile.DefaultErrnoRet == nil {
			continue // runc leaves out what the default does anyway
		}
		if len(s.Args) == 0 {
			return s.Action
		}
		for _, key := range matching(s.Args, args) {
			if chosen == "" || key < chosen {
				action, chosen = s.Action, key
			}
		}
	}
	return action
}

// matching returns a sort key for each alternative of rules that holds.
func matching(rules []specs.LinuxSeccompArg, args *[maxArgs]uint64) []string {
	ways, err := alternatives(rules)
	if err != nil {
		panic(err)
	}
	var keys []string
	for _, w := range ways {
		c := clause{conditions: w}
		if c.holds(args, false) {
			keys = append(keys, fmt.Sprint(w))
		}
	}
	return keys
}

// final is the result of a call under a profile and the table behind it.
func final(profile *specs.LinuxSeccomp, table *Table, name string, args *[maxArgs]uint64) result {
	switch action := weigh(profile, name, args); action {
	case specs.ActAllow, specs.ActLog:
		return passed
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread:
		return killed
	case specs.ActNotify:
		nr, ok := Number(name)
		if !ok {
			return denied
		}
		switch table.Decide(int32(nr), nativeAuditArch, args).Verdict {
		case Watch:
			return passed
		case Kill:
			return killed
		}
	}
	return denied
}
