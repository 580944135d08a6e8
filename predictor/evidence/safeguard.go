package evidence

import "slices"

// Safeguard is something that can be done about a risk.
type Safeguard string

// The safeguards, from mild to strong.
const (
	SafeguardWatch          Safeguard = "watch"      // harmless calls that history would let pass unseen are watched, too frequent ones excepted
	SafeguardPIDs           Safeguard = "pids"       // at most 1024 processes
	SafeguardShares         Safeguard = "cpu_shares" // a quarter of the usual share when the processors are busy
	SafeguardNoNewPrivs     Safeguard = "no_new_privileges"
	SafeguardSensitiveCalls Safeguard = "sensitive_calls" // sensitive calls that nothing speaks for are refused
	SafeguardEnforce        Safeguard = "enforce"         // every call that nothing speaks for is refused
	SafeguardReadonlyRoot   Safeguard = "readonly_root"
	SafeguardEgressListed   Safeguard = "egress_listed" // listed addresses cannot be reached
	SafeguardEgressUnseen   Safeguard = "egress_unseen" // addresses that it never reached before cannot be reached
	SafeguardNetworkOff     Safeguard = "network_off"
	SafeguardFreeze         Safeguard = "freeze" // of a running container: it stops, and goes on when the risk falls
	SafeguardKill           Safeguard = "kill"   // of a running container
)

// Safeguards lists them all.
var Safeguards = []Safeguard{
	SafeguardWatch, SafeguardPIDs, SafeguardShares, SafeguardNoNewPrivs, SafeguardSensitiveCalls, SafeguardEnforce, SafeguardReadonlyRoot,
	SafeguardEgressListed, SafeguardEgressUnseen, SafeguardNetworkOff, SafeguardFreeze, SafeguardKill,
}

// DefaultSafeguards is which safeguards are weighed at which level of risk. To freeze or kill is never Forefend's own idea.
func DefaultSafeguards() map[Level][]Safeguard {
	return map[Level][]Safeguard{
		Low:    nil,
		Medium: nil, // watched, told of, and nothing changed: half of what is suspected is wrong
		High: {SafeguardWatch, SafeguardPIDs, SafeguardShares, SafeguardNoNewPrivs, SafeguardSensitiveCalls, SafeguardEnforce,
			SafeguardEgressListed},
		Critical: slices.DeleteFunc(slices.Clone(Safeguards), Safeguard.Final),
	}
}

// Final tells of a safeguard after which nothing is left to be broken: it stops the container. Such ones are not weighed
// against anything, and none is used before something runs.
func (s Safeguard) Final() bool { return s == SafeguardFreeze || s == SafeguardKill }
