package shim

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// syscallsLever moves the verdicts of watched calls: the next call obeys.
type syscallsLever struct{}

func (syscallsLever) name() string { return "syscalls" }

func (syscallsLever) holds(k policy.Key) bool {
	family, _ := k.Family()
	return family == policy.KeySyscalls
}

func (l syscallsLever) move(_ context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	if c.supervised == nil {
		return nil, fmt.Errorf("the container's system calls are not supervised: %w", errdefs.ErrFailedPrecondition)
	}
	was, is := before.Members(policy.KeySyscalls), after.Members(policy.KeySyscalls)
	old := c.supervised.Table()
	table := old.Clone()
	names := make([]string, 0, len(is))
	for name := range is {
		if v, ok := was[name]; !ok || v != is[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := table.SetVerdict(name, seccomp.Verdict(is[name])); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
		}
	}
	c.supervised.SetTable(table)
	return func(context.Context) error { c.supervised.SetTable(old); return nil }, nil
}
