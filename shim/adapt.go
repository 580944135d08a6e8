package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/admit"
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
	if err := ctx.Err(); err != nil { // the one before has taken too long: whoever asked has been told that nothing came of it
		return api.AdaptResponse{}, fmt.Errorf("container %s: another change of it was under way: %w", req.ID, err)
	}
	defer a.s.changing(c)()
	before := c.current()
	if before.Facts.Run != req.Run || before.Revision != req.Before || !req.Since.IsZero() && !req.Since.Equal(before.Changed()) {
		return api.AdaptResponse{Stale: true, Decision: before}, nil
	}
	if before.Availability == api.ByNobody {
		return api.AdaptResponse{}, fmt.Errorf("container %s runs without a policy (on_unavailable is \"open\"): %w", req.ID, errdefs.ErrFailedPrecondition)
	}
	ctx = namespaces.WithNamespace(ctx, c.id.Namespace)
	wanted := req.After
	if req.Brief {
		wanted = admit.Unbrief(before, req.After, req.Only)
	}
	after, results, err := a.s.adapt(ctx, c, before, wanted, manner{reclaim: req.Reclaim, table: wanted.Table})
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Info("forefend: a part of a change was not made")
	}
	if ctx.Err() != nil && after.Revision != before.Revision { // nobody hears the answer
		a.s.reporter.changed(after)
	}
	if req.Brief && after.Effective.Equal(wanted.Effective) {
		return api.AdaptResponse{AsAsked: true, Results: results}, nil
	}
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
	state := c.agent.state(ctx)
	if req.Flows {
		var err error
		if state.Flows, state.Counters, err = c.agent.flows(ctx); err != nil {
			state.Reason = err.Error()
		}
	}
	if req.Verify && state.Status == api.AgentRunning {
		r, err := c.agent.verify(ctx)
		if err != nil {
			return state, err
		}
		state.Receipts = &r
	}
	return state, nil
}

// adapt moves a running container from one decision to the next with each lever that has something to move, and puts in
// force what came of it: before, where that is nothing. The caller holds c.updating.
//
// The error is about the dimensions that failed or were refused, as the results are.
func (s *Service) adapt(ctx context.Context, c *container, before, after api.Decision, how manner) (api.Decision, []api.Result, error) {
	after.Seccomp, after.Table = nil, nil
	var results []api.Result
	var errs []error
	if fixed := s.fixed(before.Effective, after.Effective); len(fixed.Changed) > 0 {
		results = append(results, fixed)
		errs = append(errs, fmt.Errorf("%s: %s: %w", strings.Join(fixed.Changed, ", "), fixed.Reason, errdefs.ErrFailedPrecondition))
		after.Effective = after.Effective.ReplaceKeys(s.unmoved, before.Effective)
	}
	for _, l := range s.levers {
		var note string
		if l, ok := l.(settler); ok {
			after.Effective, note = l.settle(c, before.Effective, after.Effective)
		}
		r, err := s.pull(ctx, l, c, before.Effective, after.Effective, how)
		if r.Reason == "" {
			r.Reason = note
		}
		if err != nil {
			errs = append(errs, err)
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
	after = admit.Settled(before, after, results)
	if after.Revision != before.Revision {
		c.put(after)
		s.write(ctx, c)
	}
	return after, results, errors.Join(errs...)
}

// write brings the record on disk up to date.
func (s *Service) write(ctx context.Context, c *container) {
	if err := s.save(c); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Warn("forefend: changed policy not recorded")
	}
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

// pull uses one lever. What a client of containerd asks for goes through that of the resources in any case.
func (s *Service) pull(ctx context.Context, l lever, c *container, before, after policy.Effective, how manner) (api.Result, error) {
	began := time.Now()
	r := api.Result{Lever: l.name(), Status: api.ResultApplied, Changed: before.Diff(after, l.holds)}
	if l, ok := l.(settler); ok {
		r.Changed = append(r.Changed, l.also(before, after)...)
	}
	unchanged := len(r.Changed) == 0
	if unchanged {
		r.Status = api.ResultUnchanged
		if how.update == nil || l.name() != leverResources {
			return r, nil
		}
	}
	_, err := l.move(ctx, c, before, after, how)
	if err != nil {
		r.Status, r.Reason = api.ResultFailed, err.Error()
		if errors.Is(err, errdefs.ErrFailedPrecondition) || errors.Is(err, errdefs.ErrInvalidArgument) {
			r.Status = api.ResultRefused
		}
	}
	r.Took = time.Since(began)
	return r, err
}
