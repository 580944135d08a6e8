package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// adapter serves api.Adapter, on the socket on which the shim serves containerd.
type adapter struct{ s *Service }

// Adapt implements api.Adapter.
func (a adapter) Adapt(ctx context.Context, req api.AdaptRequest) (api.AdaptResponse, error) {
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return api.AdaptResponse{}, err
	}
	c := a.s.container(req.ID.Container)
	if c == nil || c.id != req.ID || c.watch == nil {
		return api.AdaptResponse{}, fmt.Errorf("container %s: %w", req.ID, errdefs.ErrNotFound)
	}
	if req.Action != "" {
		return a.s.act(ctx, c, req)
	}
	c.updating.Lock()
	defer c.updating.Unlock()
	defer a.s.changing(c)()
	before := c.current()
	if before.Facts.Run != req.Run || before.Revision != req.Before {
		return api.AdaptResponse{Stale: true, Decision: before}, nil
	}
	if before.Availability == api.ByNobody {
		return api.AdaptResponse{}, fmt.Errorf("container %s runs without a policy (on_unavailable is \"open\"): %w", req.ID, errdefs.ErrFailedPrecondition)
	}
	ctx = namespaces.WithNamespace(ctx, c.id.Namespace)
	after, results := a.s.adapt(ctx, c, before, req.After, manner{reclaim: req.Reclaim, table: req.After.Table})
	return api.AdaptResponse{Decision: after, Results: results}, nil
}

// Agent implements api.Adapter.
func (a adapter) Agent(ctx context.Context, req api.AgentRequest) (api.Agent, error) {
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return api.Agent{}, err
	}
	c := a.s.container(req.ID.Container)
	if c == nil || c.id != req.ID {
		return api.Agent{}, fmt.Errorf("container %s: %w", req.ID, errdefs.ErrNotFound)
	}
	if req.Now {
		c.agent.now(ctx)
	}
	return c.agent.state(ctx), nil
}

// adapt moves a running container from one decision to the next with each lever that has something to move, and puts in
// force what came of it. The caller holds c.updating.
func (s *Service) adapt(ctx context.Context, c *container, before, after api.Decision, how manner) (api.Decision, []api.Result) {
	after.Seccomp, after.Table = nil, nil
	var results []api.Result
	if fixed := s.fixed(before.Effective, after.Effective); len(fixed.Changed) > 0 {
		results = append(results, fixed)
		after.Effective = after.Effective.ReplaceKeys(s.unmoved, before.Effective)
	}
	for _, l := range s.levers {
		var note string
		if l, ok := l.(settler); ok {
			after.Effective, note = l.settle(c, before.Effective, after.Effective)
		}
		r := s.pull(ctx, l, c, before.Effective, after.Effective, how)
		if r.Reason == "" {
			r.Reason = note
		}
		if r.Status == api.ResultRefused || r.Status == api.ResultFailed {
			after.Effective = after.Effective.ReplaceKeys(l.holds, before.Effective)
			if l.holds(policy.KeyMemory) {
				after.Airbag = before.Airbag
			}
		}
		if r.Status != api.ResultUnchanged {
			results = append(results, r)
		}
	}
	if n := len(after.Changes); n > 0 {
		after.Changes = slices.Clone(after.Changes)
		after.Changes[n-1].Results = results
	}
	c.put(after)
	if err := s.save(c); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Warn("forefend: changed policy not recorded")
	}
	return after, results
}

// unmoved reports whether no lever moves a key.
func (s *Service) unmoved(k policy.Key) bool {
	return !slices.ContainsFunc(s.levers, func(l lever) bool { return l.holds(k) })
}

// fixed refuses what no lever moves.
func (s *Service) fixed(before, after policy.Effective) api.Result {
	return api.Result{
		Lever: "creation", Status: api.ResultRefused, Changed: before.Diff(after, s.unmoved),
		Reason: "it is part of how a container is created: set it by annotation or config, and create the container anew",
	}
}

// pull uses one lever.
func (s *Service) pull(ctx context.Context, l lever, c *container, before, after policy.Effective, how manner) api.Result {
	began := time.Now()
	r := api.Result{Lever: l.name(), Status: api.ResultApplied, Changed: before.Diff(after, l.holds)}
	if l, ok := l.(settler); ok {
		r.Changed = append(r.Changed, l.also(before, after)...)
	}
	if len(r.Changed) == 0 {
		r.Status = api.ResultUnchanged
		return r
	}
	if _, err := l.move(ctx, c, before, after, how); err != nil {
		r.Status, r.Reason = api.ResultFailed, err.Error()
		if errors.Is(err, errdefs.ErrFailedPrecondition) || errors.Is(err, errdefs.ErrInvalidArgument) {
			r.Status = api.ResultRefused
		}
	}
	r.Took = time.Since(began)
	return r
}
