package recommend

import (
	"fmt"
	"maps"
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

// What safeguards set.
const (
	guardedPIDs   = 1024
	guardedShares = wholeShares / 4
)

// levers are the policy keys of the safeguards that have one of their own.
var levers = map[evidence.Safeguard]struct {
	key   policy.Key
	value policy.Value
}{
	evidence.SafeguardPIDs:         {policy.KeyPIDs, guardedPIDs},
	evidence.SafeguardShares:       {policy.KeyCPUShares, guardedShares},
	evidence.SafeguardNoNewPrivs:   {policy.KeyNoNewPrivileges, policy.Tight},
	evidence.SafeguardEnforce:      {policy.KeyMode, policy.ModeEnforce},
	evidence.SafeguardReadonlyRoot: {policy.KeyReadonlyRoot, policy.Tight},
	evidence.SafeguardEgressListed: {policy.KeyEgressFeeds, policy.FeedsBlock},
	evidence.SafeguardEgressUnseen: {policy.KeyEgressDefault, policy.Tight},
	evidence.SafeguardNetworkOff:   {policy.KeyNetwork, policy.Tight},
}

// HasLever tells whether there is a part of the policy by which a safeguard is put in force.
func HasLever(s evidence.Safeguard) bool {
	_, own := levers[s]
	return own || s == evidence.SafeguardWatch || s == evidence.SafeguardSensitiveCalls
}

// Protect returns the claims that a trade makes. sensitive lists the sensitive calls, hot says which harmless ones are too
// frequent to be watched.
func Protect(t Trade, k Known, sensitive []string, hot func(string) bool) []policy.Claim {
	var out []policy.Claim
	for _, o := range t.Options {
		if !o.Chosen {
			continue
		}
		claim := func(key policy.Key, v policy.Value) {
			out = append(out, policy.Claim{Key: key, Value: v, Origin: policy.Origin{
				Author: policy.Prediction, Source: "risk " + string(k.Risk.Level), Reason: o.reason(k.Risk.Score),
			}})
		}
		switch lever, own := levers[o.Safeguard]; {
		case own:
			claim(lever.key, lever.value)
			if o.Safeguard == evidence.SafeguardEgressUnseen {
				for _, a := range needed(k) {
					claim(policy.KeyEgress.Member(a), policy.Loose)
				}
			}
		case o.Safeguard == evidence.SafeguardWatch:
			for _, name := range slices.Sorted(maps.Keys(k.Prediction.Seen)) {
				if !is(hot, name) && !slices.Contains(k.Prediction.Hot, name) {
					claim(policy.KeySyscalls.Member(name), policy.SyscallWatch)
				}
			}
		case o.Safeguard == evidence.SafeguardSensitiveCalls:
			for _, name := range sensitive {
				if Refuses(o.Safeguard, name, k) {
					claim(policy.KeySyscalls.Member(name), policy.SyscallDeny)
				}
			}
		}
	}
	return out
}

// reason is why a safeguard was chosen against a risk of that score.
func (o Option) reason(score float64) string {
	return fmt.Sprintf("%s: removes %.0f of %.0f points of risk, breaks the application with probability %.2g: %s",
		o.Safeguard, o.Removed, score, o.Breakage, o.Why)
}

// startCalls are made by runc on the way to the program, with the profile in force: refused by name, nothing would start.
var startCalls = map[string]bool{
	"execve": true, "execveat": true, "setuid": true, "setgid": true, "setgroups": true, "setresuid": true, "setresgid": true, "setreuid": true,
	"setregid": true, "setuid32": true, "setgid32": true, "setgroups32": true, "capset": true, "seccomp": true, "memfd_create": true, "clone3": true,
}

// AtStart reports whether runc makes a call on the way to every program.
func AtStart(call string) bool { return startCalls[call] }

// Refuses tells whether a safeguard about calls refuses one, given that the call is of the kind the safeguard is about:
// nothing speaks for it, neither an earlier run nor the scan.
func Refuses(s evidence.Safeguard, call string, k Known) bool {
	if !aboutCalls(s) || k.Prediction.Seen[call] > 0 || s == evidence.SafeguardSensitiveCalls && startCalls[call] {
		return false
	}
	return k.Scan == nil || !slices.Contains(k.Scan.Syscalls, call)
}

// aboutCalls tells whether a safeguard refuses system calls.
func aboutCalls(s evidence.Safeguard) bool {
	return s == evidence.SafeguardSensitiveCalls || s == evidence.SafeguardEnforce
}
