package rewrite

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// infinity is RLIM_INFINITY.
const infinity = math.MaxUint64

// rlimitNames are the limits Linux has and runc sets.
var rlimitNames = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
	"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO",
	"RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

// RlimitNames lists the resource limits of Linux. The list is the caller's.
func RlimitNames() []string { return slices.Clone(rlimitNames) }

// hardValue is a hard limit on the policy's scale.
func hardValue(hard uint64) policy.Value {
	return policy.Value(min(hard, math.MaxInt64))
}

// HardLimit is the hard limit of a value of policy.KeyRlimits.
func HardLimit(v policy.Value) uint64 {
	if v == policy.Unlimited {
		return infinity
	}
	return uint64(max(v, 0))
}

// rlimits claims the hard limits. Of a limit that is set twice runc leaves the
// last in force.
func (c *claims) rlimits(list []specs.POSIXRlimit) {
	last := make(map[string]uint64)
	for _, l := range list {
		last[l.Type] = l.Hard
	}
	for _, name := range rlimitNames {
		if hard, ok := last[name]; ok {
			c.add(policy.KeyRlimits.Member(name), hardValue(hard))
		}
	}
}

// rlimits sets the hard limits that differ from the spec's; a soft limit is
// lowered to fit, never raised.
func rlimits(spec *specs.Spec, in Input) error {
	p := process(spec)
	members := in.Effective.Members(policy.KeyRlimits)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(rlimitNames, name) {
			return fmt.Errorf("%.40q is not a resource limit of Linux: %w", name, errdefs.ErrInvalidArgument)
		}
		p.Rlimits = setRlimit(p.Rlimits, name, members[name])
	}
	return nil
}

// setRlimit returns limits with name set to v. The list given is not changed.
func setRlimit(limits []specs.POSIXRlimit, name string, v policy.Value) []specs.POSIXRlimit {
	var last *specs.POSIXRlimit
	own := slices.Clone(limits)
	for i := range own {
		if own[i].Type == name {
			last = &own[i]
		}
	}
	switch {
	case last != nil && hardValue(last.Hard) == v:
		return limits
	case last == nil:
		return append(own, specs.POSIXRlimit{Type: name, Hard: HardLimit(v), Soft: HardLimit(v)})
	}
	for i := range own {
		if own[i].Type == name { // earlier ones too: the kernel applies them in turn
			own[i].Hard = HardLimit(v)
			own[i].Soft = min(own[i].Soft, own[i].Hard)
		}
	}
	return own
}
