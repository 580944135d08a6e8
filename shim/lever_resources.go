package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// resourcesLever moves the limits of a container's cgroup: memory, swap, CPU time and weight, processes, rates and weight at disks. It writes them
// itself where runc does not keep them with systemd, because starting runc for it takes longer than all else together
// (docs/decisions/0051); what a client of containerd asked for beside them goes through runc.
type resourcesLever struct{ s *Service }

const leverResources = "resources"

func (resourcesLever) name() string { return leverResources }

func (resourcesLever) holds(k policy.Key) bool {
	switch k {
	case policy.KeyMemory, policy.KeyMemorySoft, policy.KeyMemorySwap, policy.KeyCPUs, policy.KeyCPUShares, policy.KeyPIDs, policy.KeyIOWeight:
		return true
	}
	family, _ := k.Family()
	return family == policy.KeyIORead || family == policy.KeyIOWrite
}

func (l resourcesLever) move(ctx context.Context, c *container, before, after policy.Effective, how manner) (func(context.Context) error, error) {
	group := cgroup.FromMap(c.cgroup)
	if target, lower := lowered(before, after); lower && how.reclaim {
		if err := group.Reclaim(target); err != nil {
			return nil, err
		}
	}
	if err := possible(c, before, after); err != nil {
		return nil, err
	}
	keeps := l.s.keepLimit(c, before, after)
	undo := manner{}
	if how.update != nil {
		undo.update = &specs.LinuxResources{}
	}
	back := func(ctx context.Context) error { return l.apply(ctx, c, after, before, undo) }
	err := l.apply(ctx, c, before, after, how)
	if err == nil {
		err = inForce(group, after, keeps)
	}
	if err == nil {
		return back, nil
	}
	err = explainBusy(group, before, after, err)
	ctx, cancel := lasting(ctx, backWithin)
	defer cancel()
	if undone := back(ctx); undone != nil && !errors.Is(undone, fs.ErrNotExist) { // half of it may be in force
		err = errors.Join(err, fmt.Errorf("and the limits could not be put back: %w", undone))
	}
	return nil, err
}

// apply sets every limit that the policy decides.
func (l resourcesLever) apply(ctx context.Context, c *container, before, after policy.Effective, how manner) error {
	if !c.systemd && how.update == nil {
		c.direct = true
		group := cgroup.FromMap(c.cgroup)
		if err := group.Set(rewrite.Change(nil, before, after, false, unified())); err != nil {
			return err
		}
		return throttle(group, before, after, false)
	}
	// runc lays what it is sent over what it was told last, and would bring back what was taken back since.
	body, err := encodeResources(rewrite.Change(how.update, before, after, c.direct, unified()))
	if err != nil {
		return err
	}
	_, err = l.s.TTRPCTaskService.Update(ctx, &taskv3.UpdateTaskRequest{
		ID: c.id.Container, Resources: &anypb.Any{TypeUrl: resourcesType, Value: body}, Annotations: how.annotations,
	})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	return throttle(cgroup.FromMap(c.cgroup), before, after, true)
}

// throttle sets the rates and the weight at disks that differ between two policies, and with all also those that do not: runc puts back those that it
// created the container with. A disk that was pulled out meanwhile keeps nobody from changing something else.
func throttle(group cgroup.Group, before, after policy.Effective, all bool) error {
	for _, f := range []struct {
		family    policy.Key
		direction cgroup.Direction
	}{{policy.KeyIORead, cgroup.IORead}, {policy.KeyIOWrite, cgroup.IOWrite}} {
		was, is := before.Members(f.family), after.Members(f.family)
		for _, disk := range slices.Sorted(maps.Keys(either(was, is))) {
			key := f.family.Member(disk)
			old, _ := before.Limit(key)
			rate, _ := after.Limit(key) // 0: none
			stays := old == rate
			if stays && !all {
				continue
			}
			if err := group.Throttle(disk, f.direction, rate); err != nil && !(stays && cgroup.Disk(disk) != nil) {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	was, _ := before.Limit(policy.KeyIOWeight)
	is, _ := after.Limit(policy.KeyIOWeight) // 0: none
	if was == is && !(all && is != 0) {
		return nil
	}
	if err := group.SetIOWeight(is); err != nil {
		return fmt.Errorf("%s: %w", policy.KeyIOWeight, err)
	}
	return nil
}

// lowered reports whether after limits memory to less than before, and to how much.
func lowered(before, after policy.Effective) (target int64, lower bool) {
	limit, limited := after.Limit(policy.KeyMemory)
	old, wasLimited := before.Limit(policy.KeyMemory)
	return limit, limited && (!wasLimited || limit < old)
}

// explainBusy says why the kernel refused a memory limit, where it is that more is in use.
func explainBusy(group cgroup.Group, before, after policy.Effective, err error) error {
	target, lower := lowered(before, after)
	if !lower {
		return err
	}
	used, rerr := group.Used()
	if rerr != nil || used <= target {
		return err
	}
	return fmt.Errorf("a memory limit of %s is below the %s in use that the kernel cannot reclaim; the limit stays. "+
		"Let the application free memory, or take a higher limit: %w", policy.KeyMemory.Format(policy.Value(target)),
		policy.KeyMemory.Format(policy.Value(used)), errdefs.ErrFailedPrecondition)
}

// keepLimit has the airbag keep a predicted limit that a change leaves as it is: it may be raised in the midst of it. It reports whether it may. A
// limit that is to change is not kept: going back, where that fails, would look like an old one.
func (s *Service) keepLimit(c *container, before, after policy.Effective) bool {
	old, had := before.Lookup(policy.KeyMemory)
	f, has := after.Lookup(policy.KeyMemory)
	if c.airbag == nil || !had || !has || old.Author != policy.Prediction || f.Author != policy.Prediction || f.Value != old.Value {
		return false
	}
	s.airbags.keep(c.airbag)
	return true
}

// inForce reads back from the kernel what a policy says of limits; raised: that of memory may have been raised meanwhile.
func inForce(group cgroup.Group, e policy.Effective, raised bool) error {
	is, err := group.Limits()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the container is just ending
	}
	if err != nil {
		return err
	}
	var errs []error
	check := func(k policy.Key, has, grain int64) {
		want, limited := e.Limit(k)
		if d := want - has; limited && (d >= grain || d <= -grain) || !limited && has != 0 {
			errs = append(errs, fmt.Errorf("%s: the kernel has %s, not %s", k, limitWord(k, has), limitWord(k, want)))
		}
	}
	page := int64(os.Getpagesize())
	if want, _ := e.Limit(policy.KeyMemory); !raised || is.Memory < want {
		check(policy.KeyMemory, is.Memory, page)
	}
	check(policy.KeyPIDs, is.PIDs, 1)
	// A quota is whole microseconds of a period: half a thousandth of a processor may be lost, and 10 are the least.
	if cpus, _ := e.Limit(policy.KeyCPUs); cpus == 0 || cpus > 10 {
		check(policy.KeyCPUs, int64(math.Round(is.CPUs*1000)), 2)
	}
	if _, swap := e.Limit(policy.KeyMemorySwap); !swap { // else the soft limit may have been fitted to it
		if soft, ok := e.Limit(policy.KeyMemorySoft); ok && (is.Memory == 0 || soft <= is.Memory) {
			check(policy.KeyMemorySoft, is.MemorySoft, page)
		}
	}
	if want, ok := e.Limit(policy.KeyCPUShares); ok {
		if has := group.Shares(); has != 0 && !group.SameShares(want, has) {
			errs = append(errs, fmt.Errorf("cpu.shares: the kernel has %d, not %d", has, want))
		}
	}
	return errors.Join(errs...)
}

func limitWord(k policy.Key, n int64) string {
	if n == 0 {
		return "no limit"
	}
	return k.Format(policy.Value(n))
}
