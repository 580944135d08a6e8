package shim

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/policy"
)

// networkLever switches the network of a container and changes whom it may contact: by its gate, for the next packet, of connections
// that exist too.
type networkLever struct{ s *Service }

func (networkLever) name() string { return "network" }

func (networkLever) holds(k policy.Key) bool {
	return k.Dimension() == policy.Network || k.Dimension() == policy.Egress
}

func (l networkLever) move(ctx context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	was, is := rulesOf(before), rulesOf(after)
	switch {
	case c.gate == nil:
		return nil, fmt.Errorf("the network of this container cannot be changed: %w: %w", c.gateless, errdefs.ErrFailedPrecondition)
	case is.Off && !was.Off && c.current().Facts.HostNetwork:
		return nil, fmt.Errorf("the network cannot be switched off: the container uses the host's: %w", errdefs.ErrFailedPrecondition)
	case was.Off && !is.Off && c.offline:
		return nil, fmt.Errorf("the network cannot be switched on: the container was created without one: %w", errdefs.ErrFailedPrecondition)
	}
	set := func(ctx context.Context, r GateRules) error { return errors.Join(c.gate.Set(r), c.hold(ctx, r)) }
	if err := set(ctx, is); err != nil {
		ctx, cancel := lasting(ctx, backWithin)
		defer cancel()
		return nil, errors.Join(err, set(ctx, was))
	}
	l.s.tellFrames(c)
	return func(ctx context.Context) error { return set(ctx, was) }, nil
}
