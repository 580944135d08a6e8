package admit

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// callPlan is what is known about a container's system calls before the merge.
type callPlan struct {
	profile  *specs.LinuxSeccomp // what the verdicts may only narrow; nil: calls are not governed
	ours     bool                // profile is Forefend's default, not requested
	open     bool                // calls that nobody has a name for may pass
	foreign  bool                // calls of the 32-bit architecture are judged by name; else they kill the thread that makes them
	fallback seccomp.Verdict     // of calls about which nobody decides
	claims   []policy.Claim      // defaults by class
	guards   []policy.Guard      // a requested profile is a ceiling
	notes    []string
}

// newCallPlan classifies the calls of the profile in force.
// A call in ruled is denied by a guard, whoever else denies it: that denial has no exceptions.
func newCallPlan(in Input, mode policy.Value, unconfined bool, ruled map[policy.Key]bool) callPlan {
	spec := &in.Request.Spec
	plan := callPlan{fallback: seccomp.Watch, foreign: true}
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
	// Where the request filters nothing, or not by default, a call without a name is no surprise to deny: only
	// enforce mode does.
	plan.open = mode != policy.ModeEnforce && (plan.ours || permissive(plan.profile.DefaultAction))
	table := calls()
	plan.claims = make([]policy.Claim, 0, len(table.list))
	allowed := table.allowedBy(plan.profile)
	known := newKnowledge(in, mode)
	plan.notes = append(plan.notes, known.notes()...)
	plan.foreign = !known.oneNumbering()
	plan.claims = append(plan.claims, known.serving()...)
	for i, c := range table.list {
		switch {
		case allowed[i]:
			v := known.verdict(c)
			if ruled[c.key] && exception(v.reason) != seccomp.NoException {
				v.reason += "; a guardrail denies it to everybody"
			}
			plan.claim(c, v)
		case plan.ours && c.class == seccomp.ClassDangerous:
			plan.claim(c, verdict{policy.SyscallDeny, "dangerous, and not in Forefend's default profile"})
		case !plan.ours:
			plan.ceiling(c)
		}
	}
	return plan
}

// onlyDecided governs the calls of an unconfined container about which somebody
// did decide (a guardrail, or its own annotation), and leaves all others alone.
func (p *callPlan) onlyDecided(e policy.Effective) {
	if len(e.Members(policy.KeySyscalls)) == 0 {
		return
	}
	p.profile, p.fallback = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: seccomp.DefaultProfile(nil).Architectures}, seccomp.Native
	p.open = true // unconfined is what was asked for
	p.notes = append(p.notes, "unconfined but for the system calls that were decided by name")
}

// ruledBy lists the calls for which a guard has a ceiling of denial.
func ruledBy(guards []policy.Guard) map[policy.Key]bool {
	var ruled map[policy.Key]bool
	for _, g := range guards {
		if g.Key.Dimension() == policy.Syscalls && g.Ceiling != nil && *g.Ceiling <= policy.SyscallDeny {
			if ruled == nil {
				ruled = make(map[policy.Key]bool)
			}
			ruled[g.Key] = true
		}
	}
	return ruled
}

// speaker returns what of spec speaks for a dangerous call: a capability, or a requested profile that
// refuses by name and lets everything else through. Whoever wrote that one made up their mind; a list of allowed calls is
// mostly somebody else's default.
func speaker(name string, spec *specs.Spec) string {
	if l := spec.Linux; l != nil && l.Seccomp != nil && (l.Seccomp.DefaultAction == specs.ActAllow || l.Seccomp.DefaultAction == specs.ActLog) {
		return "requested profile, which allows what it does not name,"
	}
	if spec.Process == nil || spec.Process.Capabilities == nil {
		return ""
	}
	for _, c := range seccomp.Capabilities(name) {
		if slices.Contains(spec.Process.Capabilities.Bounding, c) {
			return "granted " + c
		}
	}
	return ""
}

func (p *callPlan) claim(c call, v verdict) {
	p.claims = append(p.claims, policy.Claim{
		Key: c.key, Value: v.value,
		Origin: policy.Origin{Author: policy.Default, Source: "forefend", Reason: v.reason},
	})
}

var deny = policy.SyscallDeny

// sourceProfile is the source of the guards that keep a decision from being wider than the requested profile.
const sourceProfile = "requested seccomp profile"

func (p *callPlan) ceiling(c call) {
	p.guards = append(p.guards, policy.Guard{
		Key: c.key, Ceiling: &deny, Source: sourceProfile,
	})
}

// leaveAlone reports whether a profile cannot be supervised and therefore
// stays exactly as requested.
func leaveAlone(err error) bool {
	return errors.Is(err, seccomp.ErrOwnListener) || errors.Is(err, seccomp.ErrUnsupportedProfile)
}
