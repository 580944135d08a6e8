package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// syscallsLever changes what becomes of a running container's system calls: the next call obeys. It reaches those that the
// kernel hands to the supervisor. What its filter decides by itself stays as it was compiled: asked for by name, such a
// change is refused; where it only follows from another (a mode, a seal), the call keeps what it has, and the policy says so.
type syscallsLever struct{}

func (syscallsLever) name() string { return "syscalls" }

// The mode and the seal are here because this is where they act on a container that runs.
func (syscallsLever) holds(k policy.Key) bool {
	family, _ := k.Family()
	return family == policy.KeySyscalls || family == policy.KeyServing || family == policy.KeySeccomp || family == policy.KeyMode || family == policy.KeySealed
}

// settle implements settler.
func (syscallsLever) settle(c *container, before, after policy.Effective) (policy.Effective, string) {
	if sameCalls(before, after) {
		return after, ""
	}
	var kept []policy.Field
	var names []string
	for _, s := range c.stuck(before, after) {
		if s.explicit {
			continue // move refuses it
		}
		f := s.before
		f.Key, f.Names, f.Lost = policy.KeySyscalls, []string{s.name}, slices.Clone(f.Lost)
		f.NoValue = f.NoValue || !s.decided
		f.Lost = append(f.Lost, policy.Lost{Origin: s.after.Origin, Value: s.after.Value, Why: stuckReason})
		kept, names = append(kept, f), append(names, s.name)
	}
	if len(names) == 0 {
		return after, ""
	}
	return after.Put(kept...), fmt.Sprintf("%s until the next start (%s): %s", howMany(len(names)), stuckReason, strings.Join(names, " "))
}

// also implements settler: a denial may hold for others than before.
func (syscallsLever) also(before, after policy.Effective) (changed []string) {
	if sameCalls(before, after) {
		return nil
	}
	was := callFields(before)
	for name, f := range callFields(after) {
		old, decided := was[name]
		_, x := admit.CallVerdict(f)
		if _, y := admit.CallVerdict(old); decided && old.Value == f.Value && x != y {
			changed = append(changed, fmt.Sprintf("%s %s: %s -> %s", policy.KeySyscalls.Member(name), policy.KeySyscalls.Format(f.Value), exceptions[y], exceptions[x]))
		}
	}
	slices.Sort(changed)
	return changed
}

var exceptions = map[seccomp.Exception]string{
	seccomp.NoException: "to everybody", seccomp.ExceptKin: "but for the caller's own processes", seccomp.ExceptExecuted: "but for executed processes",
}

const stuckReason = "the kernel's filter decides without asking"

func howMany(n int) string {
	if n == 1 {
		return "one call stays as it is"
	}
	return fmt.Sprintf("%d calls stay as they are", n)
}

// move implements lever.
func (syscallsLever) move(_ context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	if a, b := before.Value(policy.KeySeccomp, policy.Tight), after.Value(policy.KeySeccomp, policy.Tight); a != b {
		return nil, fmt.Errorf("seccomp %s -> %s: whether a container has a system call profile is settled when it starts; set annotation %sseccomp=%s and start it anew: %w",
			policy.KeySeccomp.Format(a), policy.KeySeccomp.Format(b), policy.Prefix, policy.KeySeccomp.Format(b), errdefs.ErrFailedPrecondition)
	}
	var refused []error
	for _, s := range c.stuck(before, after) {
		if s.explicit {
			refused = append(refused, s.refusal(c.supervised != nil))
		}
	}
	if len(refused) > 0 {
		return nil, errors.Join(refused...)
	}
	if c.supervised == nil {
		return nil, nil
	}
	was := c.supervised.Table()
	table := was.Clone()
	for name, w := range wanted(before, after) {
		if err := table.SetVerdict(name, w.verdict, w.except); err != nil && !errors.Is(err, seccomp.ErrNotWatched) && !errors.Is(err, seccomp.ErrNotRequested) {
			return nil, err
		}
	}
	c.life.rebase(table, after)
	return func(context.Context) error {
		c.life.rebase(was, before)
		return nil
	}, nil
}

// want is what a policy says of one call.
type want struct {
	verdict seccomp.Verdict
	except  seccomp.Exception
}

// wanted is what a policy says of the calls that it decides; those that it has let go pass. Of others nobody ever spoke:
// they keep what the profile made of them.
func wanted(before, after policy.Effective) map[string]want {
	all := make(map[string]want)
	for name := range callFields(before) {
		all[name] = want{verdict: seccomp.Watch}
	}
	for name, f := range callFields(after) {
		v, x := admit.CallVerdict(f)
		all[name] = want{v, x}
	}
	return all
}

// stuck is a call of which a policy wants what nobody can bring about while the container runs.
type stuck struct {
	name          string
	before, after policy.Field
	decided       bool // before decides it
	explicit      bool // somebody asked for just this
	unrequested   bool // the requested profile stands against it
}

// stuck lists what of a change cannot be had.
func (c *container) stuck(before, after policy.Effective) (list []stuck) {
	table := new(seccomp.Table)
	if c.supervised != nil {
		table = c.supervised.Table().Clone()
	}
	was, is := callFields(before), callFields(after)
	for name, f := range is {
		v, x := admit.CallVerdict(f)
		err := table.SetVerdict(name, v, x)
		switch {
		case err == nil:
			continue
		case name == "clone3": // without an entry it answers ENOSYS, which is no more than any verdict wants
			continue
		case name == "clone" && v >= seccomp.Watch: // those that make threads and processes pass, unshare's verdict rules the rest
			continue
		}
		old, decided := was[name]
		s := stuck{name: name, before: old, after: f, decided: decided, unrequested: errors.Is(err, seccomp.ErrNotRequested)}
		inForce := seccomp.Watch
		if decided {
			inForce, _ = admit.CallVerdict(old)
		}
		if s.unrequested {
			inForce = seccomp.Deny
		}
		s.explicit = (f.Author == policy.Request || f.Author == policy.Operator) && (!decided || old.Value != f.Value || old.Origin != f.Origin)
		if min(v, seccomp.Watch) != min(inForce, seccomp.Watch) || s.explicit && !decided {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b stuck) int { return strings.Compare(a.name, b.name) })
	return list
}

// sameCalls reports whether a change is not about system calls, as most are not, so that nobody looks at each of hundreds.
func sameCalls(before, after policy.Effective) bool {
	calls := func(e policy.Effective) (out []policy.Field) {
		for _, f := range e.Fields {
			if f.Key == policy.KeySyscalls && !f.NoValue {
				out = append(out, f)
			}
		}
		return out
	}
	return slices.EqualFunc(calls(before), calls(after), func(a, b policy.Field) bool {
		return a.Value == b.Value && a.Origin == b.Origin && slices.Equal(a.Names, b.Names)
	})
}

// callFields finds the decided field of each call.
func callFields(e policy.Effective) map[string]policy.Field {
	m := make(map[string]policy.Field)
	for _, f := range e.Fields {
		if f.Key != policy.KeySyscalls || f.NoValue {
			continue
		}
		for _, name := range f.Names {
			m[name] = f
		}
	}
	return m
}

// refusal says why, and what to do.
func (s stuck) refusal(supervised bool) error {
	list := "syscalls.deny"
	if s.after.Value >= policy.SyscallWatch {
		list = "syscalls.allow"
	}
	later := fmt.Sprintf("start it anew with annotation %s%s=%s", policy.Prefix, list, s.name)
	switch {
	case s.unrequested:
		return fmt.Errorf("%s: the seccomp profile that the container was created with does not allow it; ask for another profile and start it anew: %w", s.name, errdefs.ErrFailedPrecondition)
	case !supervised:
		return fmt.Errorf("%s: the system calls of this container are not supervised (unconfined, or its profile has a listener of its own); %s: %w", s.name, later, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%s: %s, and no running filter can be changed; %s: %w", s.name, stuckReason, later, errdefs.ErrFailedPrecondition)
}
