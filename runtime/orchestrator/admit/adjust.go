package admit

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/seccomp"
)

// Bounds of what the changes of a running container add to its decision.
const (
	maxChanges  = 64   // that it remembers
	maxStanding = 1024 // claims of one author
)

// Change is what one author wants of a running container's policy; the fields are those of api.AdjustRequest.
type Change struct {
	Set            map[string]string
	Unset          []string
	Reset          bool
	Rollback       int
	Author         policy.Author
	Source, Reason string
	Held           *string
}

// Adjust decides again about a running container, with all that the decision in force was made from and one change. in is
// what it was requested with, the site's rules and the clock; the rest of in is recovered from before. Keys that the
// change does not concern stay as they are, also where the site's rules have changed since: those hold from the next start
// on. A change that comes to nothing returns before.
//
// The error is ErrInvalidArgument for what cannot be meant, ErrFailedPrecondition for what an operator wants and a
// guardrail or the requested seccomp profile forbids; it names what stands in the way. Others are heard as far as they may be.
func Adjust(in Input, before api.Decision, ch Change) (api.Decision, error) {
	mine := ch.standing(before.Effective)
	next, err := ch.apply(mine, before)
	if err != nil {
		return api.Decision{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !in.Request.Airbag {
		next = withoutHardMemory(next) // or it would come to something once more each time it is said
	}
	touched := differing(mine, next)
	if len(touched) == 0 && !ch.holds(before) {
		return before, nil
	}
	in = recall(in, before)
	switch ch.Author {
	case policy.Operator:
		in.Operator = next
	case policy.Request:
		in.Live = next
	default:
		in.Predicted = slices.DeleteFunc(in.Predicted, ch.owns)
		in.Predicted = append(in.Predicted, next...)
	}
	whole := touched[policy.KeyMode] || touched[policy.KeySealed] || touched[policy.KeySeccomp] // on which others depend
	if !whole {
		in.only = maps.Clone(touched)
		for _, k := range beside {
			in.only[k] = true
		}
	}
	fresh, plan, err := merge(in)
	if err != nil {
		return api.Decision{}, err
	}
	after := before
	after.Effective = fresh.Effective
	if !whole {
		after.Effective = before.Effective.ReplaceOnly(touched, fresh.Effective)
	}
	if f, _ := after.Effective.Lookup(policy.KeyMemory); f.Author != policy.Prediction || before.Airbag == nil {
		after.Airbag = fresh.Airbag
	}
	if ch.Held != nil && after.Airbag != nil {
		t := *after.Airbag
		t.Held, after.Airbag = *ch.Held, &t
	}
	if ch.Author == policy.Operator {
		if err := forbidden(next, after); err != nil {
			return api.Decision{}, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
		}
	}
	after.Revision++
	after = changed(before, after, api.Change{
		Time: in.Now, Author: ch.Author, Source: ch.Source, Reason: ch.Reason, Undo: undo(mine, touched),
	})
	if len(before.Effective.Diff(after.Effective, aboutCalls)) > 0 {
		err = plan.govern(&after, in)
		after.Notes, after.Seccomp = before.Notes, nil // the kernel's filter stays
	}
	return after, err
}

// beside are keys that decide what claims of others come to, and those of the limit that an airbag follows.
var beside = []policy.Key{policy.KeyMode, policy.KeyEgressDefault, policy.KeyEgressFeeds, policy.KeyMemory, policy.KeyMemorySwap}

func aboutCalls(k policy.Key) bool { return k.Dimension() == policy.Syscalls }

// recall completes in with what before was made from.
func recall(in Input, before api.Decision) Input {
	in.Request.Facts = before.Facts
	in.Prediction, in.Risk, in.Load, in.Standing, in.Past = before.Prediction, before.Risk, before.Load, before.Standing, before.Findings
	in.Availability = before.Availability
	if before.Scan != nil {
		in.Scan = &evidence.Scan{
			Entry: before.Scan.Entry, Syscalls: before.Scan.Syscalls, Unknown: before.Scan.Unknown, Memory: before.Scan.Memory, Sinks: before.Scan.Sinks,
		}
		if before.Scan.Sized != "" {
			in.Scan.Programs = []evidence.Program{{Path: before.Scan.Sized}}
		}
	}
	in.Predicted = before.Effective.ClaimsBy(policy.Prediction)
	in.Operator = before.Effective.ClaimsBy(policy.Operator)
	in.earlier = before.Effective.ClaimsBy(policy.Request)
	in.Live = slices.DeleteFunc(slices.Clone(in.earlier), func(c policy.Claim) bool { return !c.Amends })
	return in
}

// holds reports whether the change makes growth of memory anomalous, or no longer, where it is not so already.
func (ch Change) holds(before api.Decision) bool {
	return ch.Held != nil && before.Airbag != nil && before.Airbag.Held != *ch.Held
}

// owns reports whether c was made by this author of changes before.
func (ch Change) owns(c policy.Claim) bool {
	switch {
	case c.Author != ch.Author:
		return false
	case c.Author == policy.Operator:
		return true
	}
	// The spec's, the annotations' and the first prediction's claims have no revision; what predicts has several voices.
	return c.Revision > 0 && (c.Author != policy.Prediction || c.Source == ch.Source)
}

// standing are the claims of this author of changes, one for each key.
func (ch Change) standing(e policy.Effective) []policy.Claim {
	return slices.DeleteFunc(e.ClaimsBy(ch.Author), func(c policy.Claim) bool { return !ch.owns(c) })
}

// apply returns what the author claims after the change.
func (ch Change) apply(mine []policy.Claim, before api.Decision) ([]policy.Claim, error) {
	next := slices.Clone(mine)
	if ch.Reset {
		next = nil
	}
	if ch.Rollback != 0 {
		var err error
		if next, err = ch.rolledBack(next, before); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, name := range ch.Unset {
		concerns, err := policy.Setting(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%.100s: %w", name, err))
			continue
		}
		next = slices.DeleteFunc(next, concerns)
	}
	origin := policy.Origin{Author: ch.Author, Source: ch.Source, Reason: ch.Reason, Revision: before.Revision + 1}
	set := make(map[policy.Key]string)
	for _, name := range slices.Sorted(maps.Keys(ch.Set)) {
		claims, err := policy.ParseSetting(name, ch.Set[name], origin)
		for _, c := range claims {
			if err == nil {
				err = exists(c.Key)
			}
			if other, twice := set[c.Key]; twice && err == nil {
				err = fmt.Errorf("%s is set by %s too", c.Key, other)
			}
			set[c.Key] = name
			if family, _ := c.Key.Family(); family == policy.KeySyscalls && c.Value == policy.SyscallWatch && before.Effective.Value(c.Key, 0) == policy.SyscallNative {
				c.Value = policy.SyscallNative // it is allowed already, at full speed
			}
			next = put(next, c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%.100s: %w", name, err))
		}
	}
	if len(next) > maxStanding {
		errs = append(errs, fmt.Errorf("%s would claim %d values, the most is %d", ch.Author, len(next), maxStanding))
	}
	return next, errors.Join(errs...)
}

// put returns claims with c in the place of the one for the same key; one that says the same stays.
func put(claims []policy.Claim, c policy.Claim) []policy.Claim {
	for i, old := range claims {
		if old.Key == c.Key {
			if old.Value != c.Value || old.Source != c.Source || old.Reason != c.Reason {
				claims[i] = c
			}
			return claims
		}
	}
	return append(claims, c)
}

// rolledBack takes back this author's changes after a revision, the newest first.
func (ch Change) rolledBack(claims []policy.Claim, before api.Decision) ([]policy.Claim, error) {
	if ch.Rollback < 1 || ch.Rollback >= before.Revision {
		return nil, fmt.Errorf("there is no earlier revision %d, the one in force is %d", ch.Rollback, before.Revision)
	}
	if n := before.Changes; len(n) == maxChanges && ch.Rollback < n[0].Revision-1 {
		return nil, fmt.Errorf("revision %d is too long ago, the oldest that is remembered is %d; reset takes back all changes", ch.Rollback, n[0].Revision-1)
	}
	for _, past := range slices.Backward(before.Changes) {
		if past.Revision <= ch.Rollback || past.Author != ch.Author || ch.Author == policy.Prediction && past.Source != ch.Source {
			continue
		}
		for _, s := range past.Undo {
			claims = slices.DeleteFunc(claims, func(c policy.Claim) bool { return c.Key == s.Key })
			if s.Value != nil {
				claims = append(claims, policy.Claim{Key: s.Key, Value: *s.Value, Origin: s.Origin, Amends: ch.Author == policy.Request})
			}
		}
	}
	return claims, nil
}

// exists reports the name of a member that this machine does not have.
func exists(k policy.Key) error {
	family, name := k.Family()
	switch {
	case family == policy.KeySyscalls:
		if _, ok := seccomp.Number(name); !ok {
			return fmt.Errorf("there is no system call %s", name)
		}
	case family == policy.KeyCapabilities && !policy.KnownCapability(name):
		return fmt.Errorf("there is no capability %s", name)
	case family == policy.KeyRlimits && !slices.Contains(rewrite.RlimitNames(), name):
		return fmt.Errorf("there is no resource limit %s", name)
	}
	return nil
}

// differing are the keys of which one of two lists says something else.
func differing(a, b []policy.Claim) map[policy.Key]bool {
	touched := make(map[policy.Key]bool)
	for _, lists := range [][2][]policy.Claim{{a, b}, {b, a}} {
		for _, c := range lists[0] {
			if !slices.Contains(lists[1], c) {
				touched[c.Key] = true
			}
		}
	}
	return touched
}

// undo says what to claim again for the touched keys to be as they were.
func undo(mine []policy.Claim, touched map[policy.Key]bool) []api.Standing {
	was := make(map[policy.Key]policy.Claim, len(mine))
	for _, c := range mine {
		was[c.Key] = c
	}
	out := make([]api.Standing, 0, len(touched))
	for _, k := range slices.Sorted(maps.Keys(touched)) {
		s := api.Standing{Key: k}
		if c, ok := was[k]; ok {
			s.Value, s.Origin = &c.Value, c.Origin
		}
		out = append(out, s)
	}
	return out
}

// forbidden says which of an operator's new claims did not prevail, why, and what would.
func forbidden(claims []policy.Claim, after api.Decision) error {
	var errs []error
	for _, c := range claims {
		f, _ := after.Effective.Lookup(c.Key)
		if c.Revision <= after.Revision || f.Value == c.Value {
			continue
		}
		wanted, held := c.Key.Format(c.Value), c.Key.Format(f.Value)
		fix := fmt.Sprintf("set %s to %s, or change the guardrail", c.Key, held)
		if f.Source == sourceProfile {
			fix = "create the container with a profile that allows it"
		}
		errs = append(errs, fmt.Errorf("%s: %s is not possible, %s holds it to %s (%s): %s", c.Key, wanted, f.Source, held, f.Reason, fix))
	}
	return errors.Join(errs...)
}

// Brief leaves out of after, which was adjusted from before, what is as in before. only are the dimensions that differ.
func Brief(before, after api.Decision) (brief api.Decision, only []policy.Dimension) {
	brief = api.Decision{
		Version: after.Version, Revision: after.Revision, Airbag: after.Airbag, Seccomp: after.Seccomp, Table: after.Table,
		Changes: after.Changes[len(after.Changes)-1:],
	}
	only = before.Effective.Differing(after.Effective)
	for _, d := range only {
		brief.Effective = brief.Effective.Replace(d, after.Effective)
	}
	return brief, only
}

// Unbrief is what Brief was made of.
func Unbrief(before, brief api.Decision, only []policy.Dimension) api.Decision {
	after := before
	for _, d := range only {
		after.Effective = after.Effective.Replace(d, brief.Effective)
	}
	after.Revision, after.Airbag, after.Seccomp, after.Table = brief.Revision, brief.Airbag, brief.Seccomp, brief.Table
	after.Changes = remember(before.Changes, brief.Changes...)
	return after
}

// remember adds to changes that a decision remembers.
func remember(changes []api.Change, more ...api.Change) []api.Change {
	return append(slices.Clone(changes[max(0, len(changes)+len(more)-maxChanges):]), more...)
}

// Settled is the decision in force once a shim has tried to get from before to after, with what became of each dimension:
// after.Effective is what it came to. A change of which nothing is in force makes no revision: there would be nothing to roll back to.
// What was tried is told by its event alone.
func Settled(before, after api.Decision, results []api.Result) api.Decision {
	if api.Vain(results) && before.Effective.Equal(after.Effective) {
		return before
	}
	if n := len(after.Changes); n > 0 {
		after.Changes = slices.Clone(after.Changes)
		after.Changes[n-1].Results = results
	}
	return after
}
