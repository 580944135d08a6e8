package shim

import (
	"context"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// devicesLever opens and closes devices (docs/decisions/0062).
type devicesLever struct{}

func (devicesLever) name() string { return "devices" }

func (devicesLever) holds(k policy.Key) bool { return k.Dimension() == policy.Devices }

func (l devicesLever) move(_ context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	was, err := c.access(before)
	if err != nil {
		return nil, err
	}
	is, err := c.access(after)
	if err != nil {
		return nil, err
	}
	created := align(was, is)
	if c.devices == nil {
		c.devices = cgroup.FromMap(c.cgroup).Devices()
	}
	if err := c.devices.Set(created, was.decided, is.decided); err != nil {
		return nil, err
	}
	return func(context.Context) error { return c.devices.Set(created, is.decided, was.decided) }, nil
}

// access is which devices a container can use under a policy, and could when runc made it.
type access struct{ created, decided cgroup.Access }

func (c *container) access(eff policy.Effective) (access, error) {
	created, decided, err := rewrite.DeviceAccess(&c.spec, eff)
	return access{created, decided}, err
}

// align gives both sides the same entries: one that a policy does not speak of is as created.
func align(a, b access) cgroup.Access {
	created := make(cgroup.Access)
	for _, side := range []access{a, b} {
		for name, letters := range side.created {
			created[name] = letters
		}
	}
	for name, letters := range created {
		for _, side := range []access{a, b} {
			if _, ok := side.decided[name]; !ok {
				side.decided[name] = letters
			}
		}
	}
	return created
}

// closeDevices closes, before the first instruction, what runc opens for every container although the policy does not.
func (c *container) closeDevices(ctx context.Context) error {
	decision := c.current()
	if len(decision.Effective.Members(policy.KeyDevices)) == 0 || decision.AsAsked {
		return nil
	}
	made, err := c.access(policy.Effective{})
	if err != nil {
		return err
	}
	wanted, err := c.access(decision.Effective)
	if err != nil {
		return err
	}
	align(made, wanted)
	for name, letters := range wanted.decided {
		if made.decided[name] != letters {
			_, err := devicesLever{}.move(ctx, c, policy.Effective{}, decision.Effective, manner{})
			return err
		}
	}
	return nil
}
