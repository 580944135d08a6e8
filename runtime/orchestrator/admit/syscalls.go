package admit

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// callPlan is what is known about a container's system calls before the merge.
type callPlan struct {
	profile *specs.LinuxSeccomp // what the verdicts may only narrow; nil: calls are not governed
	ours    bool                // profile is Forefend's default, not requested
	claims  []policy.Claim      // defaults by class
	guards  []policy.Guard      // a requested profile is a ceiling
	notes   []string
}

// newCallPlan classifies the calls of the profile in force.
func newCallPlan(spec *specs.Spec, mode policy.Value, p workload.Prediction, unconfined bool) callPlan {
	plan := callPlan{}
	if spec.Linux != nil {
		plan.profile = spec.Linux.Seccomp
	}
	switch {
	case plan.profile == nil && unconfined:
		plan.notes = append(plan.notes, "no system call profile: unconfined as asked")
		return plan
	case plan.profile == nil && mode == policy.ModeObserve:
		plan.profile = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: seccomp.DefaultProfile(spec).Architectures}
		plan.notes = append(plan.notes, "no system call profile was requested: observe mode watches and denies nothing")
	case plan.profile == nil:
		plan.profile, plan.ours = seccomp.DefaultProfile(spec), true
		plan.notes = append(plan.notes, "no system call profile was requested: Forefend's default applies")
	}
	allowed := allowedBy(plan.profile)
	for _, name := range seccomp.Names() {
		class := seccomp.Classify(name)
		switch {
		case allowed[name]:
			plan.claim(name, classVerdict(name, class, mode, p, spec))
		case plan.ours && class == seccomp.ClassDangerous:
			plan.claim(name, verdict{policy.SyscallDeny, "dangerous, and not in Forefend's default profile"})
		case !plan.ours:
			plan.ceiling(name)
		}
	}
	return plan
}

type verdict struct {
	value  policy.Value
	reason string
}

// classVerdict is the default for one call (DESIGN sections 5 and 7).
func classVerdict(name string, class seccomp.Class, mode policy.Value, p workload.Prediction, spec *specs.Spec) verdict {
	_, seen := p.Seen[name]
	surprise := p.Sealed && !seen && mode == policy.ModeEnforce
	switch {
	case class == seccomp.ClassHot:
		return verdict{policy.SyscallNative, "benign and frequent: full speed"}
	case class == seccomp.ClassDangerous:
		if c := speaker(name, spec); c != "" && !surprise {
			return verdict{policy.SyscallWatch, "dangerous, but the granted " + c + " speaks for it"}
		}
		return verdict{policy.SyscallDeny, "dangerous, and nothing speaks for it"}
	case surprise:
		return verdict{policy.SyscallDeny, "enforce mode, sealed: no earlier run made it"}
	case class == seccomp.ClassSensitive:
		return verdict{policy.SyscallWatch, "rare and matters: stays switchable"}
	}
	return verdict{policy.SyscallWatch, "benign, not yet learned"}
}

// speaker returns the capability of spec that speaks for a dangerous call.
func speaker(name string, spec *specs.Spec) string {
	if spec.Process == nil || spec.Process.Capabilities == nil {
		return ""
	}
	for _, c := range seccomp.Capabilities(name) {
		if slices.Contains(spec.Process.Capabilities.Bounding, c) {
			return c
		}
	}
	return ""
}

func (p *callPlan) claim(name string, v verdict) {
	p.claims = append(p.claims, policy.Claim{
		Key: policy.KeySyscalls.Member(name), Value: v.value,
		Origin: policy.Origin{Author: policy.Default, Source: "forefend", Reason: v.reason},
	})
}

var deny = policy.SyscallDeny

func (p *callPlan) ceiling(name string) {
	p.guards = append(p.guards, policy.Guard{
		Key: policy.KeySyscalls.Member(name), Ceiling: &deny, Source: "requested seccomp profile",
	})
}

// widened adds to Forefend's default profile the calls that somebody with the
// right to it allowed beyond it. A requested profile is never widened.
func (p callPlan) widened(verdicts map[string]seccomp.Verdict) *specs.LinuxSeccomp {
	if !p.ours {
		return p.profile
	}
	allowed := allowedBy(p.profile)
	var extra []string
	for name, v := range verdicts {
		if v >= seccomp.Watch && !allowed[name] {
			extra = append(extra, name)
		}
	}
	if len(extra) == 0 {
		return p.profile
	}
	slices.Sort(extra)
	wider := *p.profile
	wider.Syscalls = append(slices.Clone(p.profile.Syscalls), specs.LinuxSyscall{Names: extra, Action: specs.ActAllow})
	return &wider
}

// allowedBy returns the names a profile allows, under whatever conditions.
func allowedBy(profile *specs.LinuxSeccomp) map[string]bool {
	permissive := func(a specs.LinuxSeccompAction) bool { return a == specs.ActAllow || a == specs.ActLog }
	allowed := make(map[string]bool)
	if permissive(profile.DefaultAction) {
		for _, name := range seccomp.Names() {
			allowed[name] = true
		}
	}
	for _, rule := range profile.Syscalls {
		for _, name := range rule.Names {
			switch {
			case permissive(rule.Action):
				allowed[name] = true
			case len(rule.Args) == 0 && permissive(profile.DefaultAction):
				delete(allowed, name)
			}
		}
	}
	return allowed
}

// leaveAlone reports whether a profile cannot be supervised and therefore
// stays exactly as requested.
func leaveAlone(err error) bool {
	return errors.Is(err, seccomp.ErrOwnListener) || errors.Is(err, seccomp.ErrUnsupportedProfile)
}
