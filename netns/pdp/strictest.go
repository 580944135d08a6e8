package pdp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"forefend.dev/forefend/netns/flow"
)

// Strictest is an answer that is right whichever of several is, where it is not known who asks: what all together demand, by the rules and
// fields of all, for as long as the first of them holds. It is of the oldest epoch, and of its version. There is at least one.
func Strictest(all []flow.Decision) flow.Decision {
	out := all[0]
	out.Matches, out.Depends = slices.Clone(out.Matches), slices.Clone(out.Depends)
	reasons := []string{out.Reason}
	denied := out.Profile.Deny
	for _, d := range all[1:] {
		out.Profile = Join(out.Profile, d.Profile)
		denied = denied || d.Profile.Deny
		for _, m := range d.Matches {
			if !slices.Contains(out.Matches, m) {
				out.Matches = append(out.Matches, m)
			}
		}
		for _, f := range d.Depends {
			if !slices.Contains(out.Depends, f) {
				out.Depends = append(out.Depends, f)
			}
		}
		switch {
		case d.Epoch < out.Epoch:
			out.Epoch, out.RuleVersion = d.Epoch, d.RuleVersion
		case d.Epoch == out.Epoch: // one that no rules had a say in tells of none
			out.RuleVersion = cmp.Or(out.RuleVersion, d.RuleVersion)
		}
		if d.Valid > 0 && (out.Valid == 0 || d.Valid < out.Valid) {
			out.Valid = d.Valid
		}
		if !slices.Contains(reasons, d.Reason) {
			reasons = append(reasons, d.Reason)
		}
	}
	if out.Reason = strings.Join(reasons, "; "); out.Profile.Deny && !denied {
		out.Reason = "denied: no tunnel has two endpoints: " + out.Reason
	}
	if len(all) > 1 {
		out.Reason += fmt.Sprintf("; the strictest of %d answers, since it is not known which container asks", len(all))
	}
	return out
}
