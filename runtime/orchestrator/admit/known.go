package admit

import (
	"fmt"
	"runtime"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

type verdict struct {
	value  policy.Value
	reason string
}

// Reasons of defaults that the compilation looks at.
const (
	// kinOnly denies a call towards other processes than the caller's own (docs/decisions/0015).
	kinOnly = "dangerous, and nothing speaks for it: only among the caller's own processes"
	// unreached and unsealed surprises are refused to the container's own processes; what a client executes in it is
	// no part of what was predicted (docs/decisions/0045).
	unreached = "enforce mode: no earlier run made it, and static analysis does not reach it"
	unlearned = "enforce mode, sealed: no earlier run made it"
)

// knowledge is what history and static analysis say about the calls of one container.
type knowledge struct {
	in      Input
	mode    policy.Value
	reached map[string]bool // by static analysis; nil: there is none
}

func newKnowledge(in Input, mode policy.Value) knowledge {
	k := knowledge{in: in, mode: mode}
	if in.Scan == nil || len(in.Scan.Syscalls) == 0 || in.Scan.Arch != "" && in.Scan.Arch != runtime.GOARCH || mode == policy.ModeObserve {
		return k
	}
	k.reached = make(map[string]bool, len(in.Scan.Syscalls))
	for _, name := range in.Scan.Syscalls {
		k.reached[name] = true
	}
	return k
}

// notes says what a person should know about a scan that could not follow everything.
func (k knowledge) notes() []string {
	if k.reached == nil || k.in.Scan.Complete() {
		return nil
	}
	missing := fmt.Sprintf("static analysis could not follow %d places of this image (forefend scan lists them)", len(k.in.Scan.Unknown))
	if k.mode == policy.ModeEnforce {
		return []string{missing + "; enforce mode denies what it does not reach all the same: what breaks, allow by the annotation " +
			policy.Prefix + "syscalls.allow, or run it in adaptive mode first"}
	}
	return []string{missing + ": nothing is denied because of it"}
}

// surprise returns why a call that nobody expects is refused, "" when it is not.
func (k knowledge) surprise(c call) (why string) {
	_, seen := k.in.Prediction.Seen[c.name]
	switch {
	case seen || k.mode != policy.ModeEnforce:
		return ""
	case k.in.Prediction.Sealed && c.class != seccomp.ClassHot: // calls that run at full speed are never seen
		why = unlearned
	case k.reached != nil && !k.reached[c.name] && !seccomp.Indispensable(c.name):
		why = unreached
	}
	if why != "" && !k.in.Request.Own {
		why += "; the shim is of an older release and does not tell what is executed in it apart"
	}
	return why
}

// verdict is the default for one call (DESIGN sections 5 and 7).
func (k knowledge) verdict(c call) verdict {
	surprise := k.surprise(c)
	switch {
	case c.class == seccomp.ClassDangerous:
		return k.dangerous(c, surprise)
	case surprise != "":
		return verdict{policy.SyscallDeny, surprise}
	case c.class == seccomp.ClassHot && k.reached != nil && !k.reached[c.name] && !seccomp.Indispensable(c.name):
		// Also where the analysis is incomplete: a watched call passes, some microseconds later, and is learned.
		return verdict{policy.SyscallWatch, "benign, but static analysis does not reach it"}
	case c.class == seccomp.ClassHot:
		return verdict{policy.SyscallNative, "benign and frequent: full speed"}
	case c.class == seccomp.ClassSensitive:
		return verdict{policy.SyscallWatch, "rare and matters: stays switchable"}
	case k.reached[c.name]:
		return verdict{policy.SyscallWatch, "benign, static analysis reaches it, not yet learned"}
	}
	return verdict{policy.SyscallWatch, "benign, not yet learned"}
}

func (k knowledge) dangerous(c call, surprise string) verdict {
	if by := speaker(c.name, &k.in.Request.Spec); by != "" && surprise == "" {
		return verdict{policy.SyscallWatch, "dangerous, but the " + by + " speaks for it"}
	}
	if seccomp.AmongKin(c.name) && k.in.Request.Kin { // honest programs need no more, whatever is in their code
		return verdict{policy.SyscallDeny, kinOnly}
	}
	if k.reached[c.name] && surprise == "" && !k.risky() {
		return verdict{policy.SyscallWatch, "dangerous, but static analysis reaches it and the risk is not high"}
	}
	return verdict{policy.SyscallDeny, "dangerous, and nothing speaks for it"}
}

// oneNumbering reports whether calls by the 32-bit architecture's numbers may end the thread that makes them (docs/decisions/0079):
// none of the runs that sealed the workload made one, nor is there anything to make one with.
func (k knowledge) oneNumbering() bool {
	if k.mode == policy.ModeObserve || !k.in.Prediction.Sealed || !k.in.Request.Closed || k.in.Scan == nil || !k.in.Scan.OneNumbering {
		return false
	}
	for name := range k.in.Prediction.Seen {
		if seccomp.ForeignOnly(name) {
			return false
		}
	}
	return true
}

// risky reports whether the container's risk speaks against what static analysis alone speaks for.
func (k knowledge) risky() bool {
	r := k.in.Risk
	return r != nil && (r.Level == evidence.High || r.Level == evidence.Critical)
}
