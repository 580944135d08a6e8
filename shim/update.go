package shim

import (
	"context"
	"encoding/json"
	"fmt"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// resourcesType is how containerd's clients name OCI resources in an Any.
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

func decodeResources(body []byte) (*specs.LinuxResources, error) {
	var r specs.LinuxResources
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("requested resources: %w", err)
	}
	return &r, nil
}

func encodeResources(r *specs.LinuxResources) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode resources: %w", err)
	}
	return body, nil
}

// Update merges the requested resources like any other request and applies the result with the levers that all
// changes of a running container go through.
func (s *Service) Update(ctx context.Context, r *taskv3.UpdateTaskRequest) (*types.Empty, error) {
	if r.Resources == nil { // upstream would panic
		return nil, grpcError(fmt.Errorf("forefend: update of %s: no resources: %w", r.ID, errdefs.ErrInvalidArgument))
	}
	c := s.container(r.ID)
	if c == nil {
		return s.TTRPCTaskService.Update(ctx, r)
	}
	c.updating.Lock() // one after the other: each starts from the policy the one before left
	defer c.updating.Unlock()
	defer s.changing(c)()
	before := c.current()
	if before.Availability == api.ByNobody {
		return s.TTRPCTaskService.Update(ctx, r)
	}
	resources, err := decodeResources(r.Resources.Value)
	if err != nil {
		return nil, grpcError(fmt.Errorf("forefend: update of %s: %w: %w", r.ID, err, errdefs.ErrInvalidArgument))
	}
	after, err := s.readjust(ctx, c, resources)
	if err != nil {
		return nil, grpcError(fmt.Errorf("forefend: update of %s: %w", r.ID, err))
	}
	after, _, err = s.adapt(ctx, c, before, after, manner{update: resources, annotations: r.Annotations})
	if err != nil {
		c.put(before)
		s.write(ctx, c)
		s.retract(ctx, c, before)
		return nil, grpcError(fmt.Errorf("forefend: update of %s: %w", r.ID, err))
	}
	c.ask(resources)
	s.write(ctx, c)
	if n := len(after.Changes); n > 0 {
		s.reporter.event(after.Changes[n-1].Event(after.Facts))
	}
	return &types.Empty{}, nil
}

// readjust merges requested resources into the policy in force: by the daemon,
// which knows more, or here with what the last decision knew.
func (s *Service) readjust(ctx context.Context, c *container, r *specs.LinuxResources) (d api.Decision, err error) {
	before := c.current()
	c.mu.Lock()
	asked := rewrite.Overlay(c.asked, r)
	c.mu.Unlock()
	err = s.link.call(ctx, s.cfg.AdmitDeadline, func(ctx context.Context, client *api.Client) (err error) {
		d, err = client.Update(ctx, api.UpdateRequest{Version: api.Version, ID: c.id, Resources: *asked, Before: before})
		return err
	})
	if err == nil || !errdefs.IsUnavailable(err) && !errdefs.IsDeadlineExceeded(err) && !errdefs.IsNotImplemented(err) {
		return d, err
	}
	why := err
	if d, err = admit.Readjust(before, asked, s.cfg.Site, unified()); err == nil {
		s.tellAlone(ctx, "update", d, why)
	}
	return d, err
}

// possible reports a memory limit that would kill the container. Under cgroup v2
// the kernel takes any limit: it reclaims what it can and then kills, which nobody
// who lowers a limit asks for; under v1 it refuses by itself. See decision 0019.
func possible(c *container, before, after policy.Effective) error {
	limit, limited := after.Lookup(policy.KeyMemory)
	old, wasLimited := before.Lookup(policy.KeyMemory)
	if !limited || limit.Value == policy.Unlimited || wasLimited && limit.Value >= old.Value {
		return nil
	}
	floor, err := cgroup.FromMap(c.cgroup).Floor()
	if err != nil {
		return nil // the container is just ending, or runc will say what is wrong
	}
	if int64(limit.Value) < floor {
		return fmt.Errorf("a memory limit of %s is below the %s in use that the kernel cannot reclaim: the container would be killed; its limit stays: %w",
			policy.KeyMemory.Format(limit.Value), policy.KeyMemory.Format(policy.Value(floor)), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// retract tells the daemon, which believes that d's successor is in force, that
// d still is.
func (s *Service) retract(ctx context.Context, c *container, d api.Decision) {
	ctx = context.WithoutCancel(ctx) // the daemon is to know also if the client has gone away
	if err := s.link.call(ctx, s.cfg.AdmitDeadline, func(ctx context.Context, client *api.Client) error {
		_, err := client.Update(ctx, api.UpdateRequest{Version: api.Version, ID: c.id, Before: d, Refused: true})
		return err
	}); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Warn("forefend: the daemon was not told that an update failed")
	}
}
