package shim

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// A lever changes one side of a running container: its limits, its system calls, its network (docs/decisions/0050).
// Levers are used one at a time and one container at a time, under container.updating.
type lever interface {
	// name is the word for it in results, events and logs.
	name() string
	// holds reports whether a key of the policy is moved by this lever.
	holds(policy.Key) bool
	// move brings the container from before to after as far as the lever's keys go, and reads back that it did. It returns how to
	// go back, nil where nothing was changed. On an error everything is as before, or the error says what is not;
	// one that wraps errdefs.ErrFailedPrecondition or ErrInvalidArgument says that nothing was tried. Going back does not end with ctx.
	move(ctx context.Context, c *container, before, after policy.Effective, how manner) (undo func(context.Context) error, err error)
}

// backWithin is how long going back to what was in force may take.
const backWithin = 20 * time.Second

// lasting is ctx for what is to be done also if whoever asked has gone away.
func lasting(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), within)
}

// manner is how a change is to be made, beside what it is.
type manner struct {
	reclaim bool // make room for a memory limit first
	// update is what a client of containerd asked for, whole, and its annotations: also what no policy decides.
	update      *specs.LinuxResources
	annotations map[string]string
	table       []byte // the compiled runtime/seccomp.Table of the policy that is to be; empty: it is the one in force
}

// A settler is a lever that cannot bring about all that a change may lead to without anybody having asked for it.
type settler interface {
	// settle makes of after what can be had, with a note for people about what cannot, "" when everything can.
	settle(c *container, before, after policy.Effective) (settled policy.Effective, note string)
	// also lists in words what it would move beside values: the same value can mean something else for another reason.
	also(before, after policy.Effective) []string
}
