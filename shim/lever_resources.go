package shim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// resourcesLever moves the limits of a container's cgroup.
type resourcesLever struct{ s *Service }

func (resourcesLever) name() string { return "resources" }

func (resourcesLever) holds(k policy.Key) bool {
	switch k {
	case policy.KeyMemory, policy.KeyMemorySoft, policy.KeyMemorySwap, policy.KeyCPUs, policy.KeyCPUShares, policy.KeyPIDs:
		return true
	}
	return false
}

func (l resourcesLever) move(ctx context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	if err := possible(c, before, after); err != nil {
		return nil, err
	}
	back := func(ctx context.Context) error { return l.update(ctx, c, after, before) }
	err := l.update(ctx, c, before, after)
	if err == nil {
		err = inForce(c, after)
	}
	if err != nil {
		if undone := back(ctx); undone != nil { // runc may have applied half of it
			err = errors.Join(err, fmt.Errorf("and the limits could not be put back: %w", undone))
		}
		return nil, err
	}
	return back, nil
}

// update has upstream set every limit that the policy decides.
func (l resourcesLever) update(ctx context.Context, c *container, before, after policy.Effective) error {
	body, err := encodeResources(rewrite.Change(before, after, unified()))
	if err != nil {
		return err
	}
	_, err = l.s.TTRPCTaskService.Update(ctx, &taskv3.UpdateTaskRequest{
		ID: c.id.Container, Resources: &anypb.Any{TypeUrl: resourcesType, Value: body},
	})
	return err
}

// inForce reads back from the kernel what a policy says of memory, CPU time and processes.
func inForce(c *container, e policy.Effective) error {
	is, err := cgroup.FromMap(c.cgroup).Limits()
	if err != nil {
		return err
	}
	page := int64(os.Getpagesize())
	var errs []error
	check := func(k policy.Key, has int64, grain int64) {
		want, _ := e.Limit(k)
		if d := want - has; d >= grain || d <= -grain {
			errs = append(errs, fmt.Errorf("%s: the kernel has %s and not %s", k, limitWord(k, has), limitWord(k, want)))
		}
	}
	check(policy.KeyMemory, is.Memory, page)
	check(policy.KeyPIDs, is.PIDs, 1)
	check(policy.KeyCPUs, int64(math.Round(is.CPUs*1000)), 2)
	return errors.Join(errs...)
}

func limitWord(k policy.Key, n int64) string {
	if n == 0 {
		return "no limit"
	}
	return k.Format(policy.Value(n))
}
