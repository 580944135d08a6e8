package admit

import (
	"fmt"
	"slices"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// serving claims what a workload may not do any more once it serves, by what earlier runs did not do then
// (docs/decisions/0059). In adaptive mode that is what gives an intruder a foothold, and what is dangerous; in enforce mode all
// that they only did before. Nothing is claimed until enough runs have served.
func (k knowledge) serving() (claims []policy.Claim) {
	p := k.in.Prediction.Phases
	if p == nil || !p.Known {
		return nil
	}
	reason := fmt.Sprintf("none of %d runs made it while serving", p.Runs)
	for _, c := range calls().list {
		start := slices.Contains(p.Start, c.name)
		foothold := seccomp.Foothold(c.name) && !slices.Contains(p.Serving, c.name)
		switch {
		case !foothold && !start || seccomp.Indispensable(c.name):
		case foothold, c.class == seccomp.ClassDangerous, k.mode == policy.ModeEnforce:
			claims = append(claims, policy.Claim{
				Key: policy.KeyServing.Member(c.name), Value: policy.SyscallDeny,
				Origin: policy.Origin{Author: policy.Default, Source: "forefend", Reason: reason},
			})
		}
	}
	return claims
}

// ServingVerdicts is what a policy says of calls that the container's own processes make once it serves, where that is
// less than what it says of them before. A default yields to who asked for the call by name.
func ServingVerdicts(e policy.Effective) map[string]seccomp.Verdict {
	verdicts := make(map[string]seccomp.Verdict)
	for _, f := range e.Fields {
		if f.Key != policy.KeyServing || f.NoValue {
			continue
		}
		for _, name := range f.Names {
			before, decided := e.Lookup(policy.KeySyscalls.Member(name))
			if f.Author == policy.Default && decided && before.Author >= policy.Request && before.Value >= policy.SyscallWatch {
				continue
			}
			if !decided || f.Value < before.Value {
				verdicts[name] = seccomp.Verdict(f.Value)
			}
		}
	}
	return verdicts
}

// StoppingVerdicts is what is left of ServingVerdicts once the workload was told to end: what earlier runs did then is
// allowed again, and all of it where too few are known to have ended so. What somebody asked for stays.
func StoppingVerdicts(e policy.Effective, p *workload.Phases) map[string]seccomp.Verdict {
	verdicts := ServingVerdicts(e)
	for name := range verdicts {
		f, _ := e.Lookup(policy.KeyServing.Member(name))
		if f.Author == policy.Default && (p == nil || p.Stops < stopsEnough || slices.Contains(p.Stop, name)) {
			delete(verdicts, name)
		}
	}
	return verdicts
}

// stopsEnough is how many runs must have been told to end before what they did not do then is refused.
const stopsEnough = 5
