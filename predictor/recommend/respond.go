package recommend

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

// fromTheStart are the safeguards that a running container cannot be given: the kernel's filter lets the calls of the first pass
// unasked, and a process that runs keeps what the second would have taken from it.
var fromTheStart = []evidence.Safeguard{evidence.SafeguardWatch, evidence.SafeguardNoNewPrivs}

// Respond returns the safeguards that the risk of a running container calls for: those of least expected cost that it can still be given, and
// of those that stop it the ones that the table names.
func (t Table) Respond(k Known) ([]evidence.Safeguard, Trade) {
	allowed := slices.DeleteFunc(slices.Clone(t.Allowed(k.Risk)), func(s evidence.Safeguard) bool { return slices.Contains(fromTheStart, s) })
	trade := Weigh(k, allowed, t.Costs)
	wanted := trade.Chosen()
	for _, s := range allowed {
		if s.Final() {
			wanted = append(wanted, s)
		}
	}
	return wanted, trade
}

// Settings are the settings of a running container's policy that put a safeguard in force, by the names of annotations.
// What is as tight already is left out, so that nothing is ever loosened by them.
func Settings(s evidence.Safeguard, k Known, sensitive []string, now policy.Effective) map[string]string {
	out := make(map[string]string)
	set := func(key policy.Key, v policy.Value) {
		if v < now.Value(key, policy.Unlimited) {
			out[string(key)] = key.Format(v)
		}
	}
	switch lever, own := levers[s]; {
	case own:
		set(lever.key, lever.value)
	case s == evidence.SafeguardSensitiveCalls:
		var deny []string
		for _, name := range sensitive {
			if Refuses(s, name, k) && now.Value(policy.KeySyscalls.Member(name), policy.SyscallWatch) > policy.SyscallDeny {
				deny = append(deny, name)
			}
		}
		if len(deny) > 0 {
			out[string(policy.KeySyscalls)+".deny"] = strings.Join(deny, ",")
		}
	}
	if s == evidence.SafeguardEgressUnseen && len(out) > 0 {
		if known := needed(k); len(known) > 0 {
			out["egress.allow"] = strings.Join(known, ",")
		}
	}
	return out
}

// reached are the members of egress that allow destinations such as "tcp/192.0.2.1:443" and "tcp/www.example.com:443": an address
// with all its ports, a name with that one. Each is there once.
func reached(destinations []string) []string {
	known := make(map[string]bool)
	for _, d := range destinations {
		_, where, _ := strings.Cut(d, "/")
		if at, err := netip.ParseAddrPort(where); err == nil {
			known[at.Addr().Unmap().WithZone("").String()] = true
		} else if _, port, ok := policy.ParseEgressName(where); ok && port != 0 {
			known[where] = true
		}
	}
	return slices.Sorted(maps.Keys(known))
}

// explained is how many factors a reason names.
const explained = 3

// Why says in a line what a risk consists of: its factors with their shares, the largest first.
func Why(r evidence.Risk) string {
	var words []string
	for _, f := range r.Factors[:min(len(r.Factors), explained)] {
		words = append(words, fmt.Sprintf("%.0f %% %s (%s)", 100*f.Share, f.Name, short(f.Why)))
	}
	if more := len(r.Factors) - explained; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	why := fmt.Sprintf("risk %s, %.0f of 100", r.Level, r.Score)
	if len(words) > 0 {
		why += ": " + strings.Join(words, ", ")
	}
	return why
}

// short is as much of a factor's reason as a line has room for.
func short(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// SafeguardOf tells which safeguard made a claim about a running container, and by which setting.
func SafeguardOf(c policy.Claim) (s evidence.Safeguard, setting string, known bool) {
	for s, lever := range levers {
		if lever.key == c.Key {
			return s, string(c.Key), true
		}
	}
	switch family, _ := c.Key.Family(); {
	case family == policy.KeySyscalls:
		return evidence.SafeguardSensitiveCalls, string(family) + ".deny", true
	case family == policy.KeyEgress:
		return evidence.SafeguardEgressUnseen, "egress.allow", true
	}
	return "", "", false
}
