package shim

import (
	"context"

	"forefend.dev/forefend/runtime/policy"
)

// execsLever is for what holds of processes that are executed from now on: each Exec is made to follow the policy in force
// (rewrite.Permitted, rewrite.Process). Nothing has to be moved.
type execsLever struct{}

func (execsLever) name() string { return "execs" }

func (execsLever) holds(k policy.Key) bool { return k.Dimension() == policy.Capabilities }

func (execsLever) move(context.Context, *container, policy.Effective, policy.Effective, manner) (func(context.Context) error, error) {
	return nil, nil
}
