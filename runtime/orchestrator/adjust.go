package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

const (
	adjustTries = 3                // decisions, where the shim changes the policy itself meanwhile
	adaptTime   = 30 * time.Second // for a shim to put a decision in force, and to make room for a memory limit
)

// Adjust implements api.Orchestrator.
func (s *Service) Adjust(ctx context.Context, req api.AdjustRequest) (resp api.AdjustResponse, err error) {
	arrived, facts := s.cfg.Now(), workload.Facts{ID: req.ID}
	defer func() {
		if !req.DryRun {
			s.decided(ctx, OperationAdjust, facts, resp.Decision, s.cfg.Now().Sub(arrived), err)
		}
		if d := &resp.Decision; req.Brief {
			*d = api.Decision{Version: d.Version, Time: d.Time, Revision: d.Revision, Facts: workload.Facts{ID: d.Facts.ID, Run: d.Facts.Run}}
		}
	}()
	if err := checkAdjust(req); err != nil {
		return resp, err
	}
	if req.Action != "" {
		return s.act(ctx, req)
	}
	turn, err := s.turn(ctx, req.ID)
	if err != nil {
		return resp, err
	}
	defer turn.leave()
	c, known := turn.last, s.inForce(turn.last, req.ID)
	if !known {
		if c, err = s.adjustable(req.ID); err != nil {
			return resp, err
		}
		s.notice(ctx, *c.record.Decision)
	}
	facts = c.record.Facts
	for before, try := *c.record.Decision, 0; try < adjustTries; try++ {
		after, err := admit.Adjust(s.adjustInput(c), before, admit.Change{
			Set: req.Set, Unset: req.Unset, Reset: req.Reset, Rollback: req.Rollback, Author: req.Author, Source: req.Source, Reason: req.Reason,
			Held: req.Held,
		})
		if err != nil {
			return resp, fmt.Errorf("container %s: %w", req.ID, err)
		}
		if req.DryRun || after.Revision == before.Revision {
			return api.AdjustResponse{Decision: withoutCode(after), Results: planned(before, after)}, nil
		}
		adapted, err := s.adapt(ctx, c, before, after, req.Reclaim)
		if err != nil {
			return resp, fmt.Errorf("container %s: %w", req.ID, err)
		}
		if !adapted.Stale {
			turn.keep(c, adapted.Decision)
		}
		switch {
		case adapted.Stale:
			s.notice(ctx, adapted.Decision)
			if known { // a client of containerd has changed what was requested, say
				if c, err = s.adjustable(req.ID); err != nil {
					return resp, err
				}
				known = false
			}
		case adapted.Decision.Revision == before.Revision:
			s.attempted(after, adapted)
			return api.AdjustResponse{Decision: adapted.Decision, Results: adapted.Results}, nil
		default:
			s.adjusted(ctx, before, adapted)
			return api.AdjustResponse{Decision: adapted.Decision, Results: adapted.Results}, nil
		}
		before = adapted.Decision
	}
	return resp, fmt.Errorf("container %s: its policy was changed %d times while this change was decided, try again: %w", req.ID, adjustTries, errdefs.ErrAborted)
}

func checkAdjust(req api.AdjustRequest) error {
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return err
	}
	if err := req.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch req.Author {
	case policy.Operator, policy.Request, policy.Prediction:
	default:
		return fmt.Errorf("%s changes no running container: the author is operator, request or prediction: %w", req.Author, errdefs.ErrInvalidArgument)
	}
	if req.Held != nil && req.Author != policy.Prediction {
		return fmt.Errorf("%s does not say whether growth is anomalous: that is a prediction: %w", req.Author, errdefs.ErrInvalidArgument)
	}
	const most = 1 << 10
	if len(req.Source) > most || len(req.Reason) > most || req.Held != nil && len(*req.Held) > most || len(req.Set)+len(req.Unset) > most {
		return fmt.Errorf("source, reason and what holds growth have at most %d bytes, a change at most %d names: %w", most, most, errdefs.ErrInvalidArgument)
	}
	return nil
}

// turn is had by one Adjust at a time.
type turn struct {
	taken chan struct{}
	// last is what the one before left of its container, so that the next change of it need not read that again; nil: nothing. For who has the turn.
	last *adjustable
}

func (t *turn) leave() { <-t.taken }

// maxLast bounds the bytes of a request that a turn keeps. A decision shares its memory with Service.running.
const maxLast = 64 << 10

// keep has the next turn begin with c, of which d is in force.
func (t *turn) keep(c *adjustable, d api.Decision) {
	if t.last = nil; c.request.Size <= maxLast && d.Size() <= maxSealed {
		last := *c
		last.record.Decision, t.last = &d, &last
	}
}

// turn waits until no other Adjust of the container is under way. A few containers share their turns.
func (s *Service) turn(ctx context.Context, id workload.ID) (*turn, error) {
	turn := &s.adjusting[maphash.Comparable(s.seed, id)%uint64(len(s.adjusting))]
	select {
	case turn.taken <- struct{}{}:
		return turn, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("container %s: another change of it is under way: %w", id, ctx.Err())
	}
}

// adjustable is what is on disk of a running container: what its shim has in force, and what it was requested with.
type adjustable struct {
	record  record.Record
	request record.Request
}

// inForce tells whether c is what is known of a running container. Its shim knows better, and will say so.
func (s *Service) inForce(c *adjustable, id workload.ID) bool {
	if c == nil || c.record.ID != id || !c.record.Alive() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[id]
	return r != nil && r.decision.Facts.Run == c.record.Run && r.decision.Revision == c.record.Decision.Revision
}

// runningRecord is the record of a container that runs.
func (s *Service) runningRecord(id workload.ID) (record.Record, error) {
	r, err := s.cfg.Containers.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && (r.Decision == nil || !r.Alive()):
		return r, fmt.Errorf("container %s does not run: %w", id, errdefs.ErrNotFound)
	case err != nil:
		return r, fmt.Errorf("container %s: %w", id, err)
	}
	return r, nil
}

func (s *Service) adjustable(id workload.ID) (c *adjustable, err error) {
	c = new(adjustable)
	c.record, err = s.runningRecord(id)
	switch {
	case err != nil:
		return nil, err
	case c.record.Decision.Availability == api.ByNobody:
		return nil, fmt.Errorf("container %s runs without a policy: it was created while the daemon was away, and on_unavailable is \"open\": %w", id, errdefs.ErrFailedPrecondition)
	}
	c.request, err = s.cfg.Containers.ReadRequest(id, c.record.Run)
	if errors.Is(err, fs.ErrNotExist) || err == nil && c.record.ShimSocket == "" {
		return nil, fmt.Errorf("container %s was created by a release of Forefend that could not change it later: create it anew: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	if c.record.Resources != nil && c.request.Spec.Linux != nil {
		c.request.Spec.Linux.Resources = c.record.Resources
	}
	return c, nil
}

func (s *Service) adjustInput(c *adjustable) admit.Input {
	return admit.Input{
		Request: api.AdmitRequest{
			Version: api.Version, Spec: c.request.Spec, ListenerPath: c.record.NotifySocket, Kin: c.request.Kin, Own: c.request.Own, Airbag: c.request.Airbag,
		},
		Site: s.cfg.Site, Privileged: s.cfg.Privileged, Unified: s.cfg.Unified, NodeMemory: s.cfg.NodeMemory, Reserve: s.cfg.Reserve,
		Now: s.cfg.Now(), Compiler: &s.compiler,
	}
}

// adapt has a container's shim go from one decision to the next.
func (s *Service) adapt(ctx context.Context, c *adjustable, before, after api.Decision, reclaim bool) (api.AdaptResponse, error) {
	req := api.AdaptRequest{
		Version: api.Version, ID: c.record.ID, Run: before.Facts.Run, Before: before.Revision, Since: before.Changed(), After: after, Reclaim: reclaim,
	}
	if req.Brief = c.record.Brief; req.Brief {
		req.After, req.Only = admit.Brief(before, after)
	}
	adapted, err := adapt(ctx, c.record.ShimSocket, req)
	if adapted.AsAsked {
		adapted.Decision = admit.Settled(before, withoutCode(after), adapted.Results)
	}
	return adapted, err
}

// adapt asks a container's shim to put a decision in force.
func adapt(ctx context.Context, socket string, req api.AdaptRequest) (api.AdaptResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, adaptTime)
	defer cancel()
	shim, err := api.DialAdapter(ctx, socket)
	if err != nil {
		return api.AdaptResponse{}, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	defer shim.Close()
	return shim.Adapt(ctx, req)
}

// attempted tells of a change of which nothing is in force. wanted is the decision that would have come of it.
func (s *Service) attempted(wanted api.Decision, adapted api.AdaptResponse) {
	change := wanted.Changes[len(wanted.Changes)-1]
	change.Results = adapted.Results
	s.publish(change.Attempt(wanted.Facts, adapted.Decision.Revision))
}

// adjusted keeps a decision that a shim has put in force, and tells of it.
func (s *Service) adjusted(ctx context.Context, before api.Decision, adapted api.AdaptResponse) {
	kept := withoutCode(adapted.Decision)
	id, news := kept.Facts.ID, true
	s.mu.Lock()
	if r := s.running[id]; r != nil && r.decision.Facts.Run == kept.Facts.Run {
		kept.Facts, kept.Sources = r.decision.Facts, r.decision.Sources
		if news = supersedes(kept, r.decision); news { // else the shim's report of this change, or of the next, was here first
			s.replaceLocked(r, kept)
		}
	}
	s.mu.Unlock()
	s.enter(ctx, before, kept, func() {
		for _, change := range kept.Changes {
			if e := change.Event(kept.Facts); change.Revision > before.Revision && (news || !s.events.told(e)) {
				s.publish(e)
			}
		}
	})
}

// renew takes over what a shim has put in force by itself, and told of by an event.
func (s *Service) renew(ctx context.Context, id workload.ID, run string) {
	r, err := s.cfg.Containers.Read(id)
	if err != nil || r.Decision == nil || r.Run != run {
		return // it has ended, or will be collected
	}
	s.mu.Lock()
	known := s.running[id]
	if known == nil || !supersedes(*r.Decision, known.decision) {
		s.mu.Unlock()
		return
	}
	before := known.decision
	s.replaceLocked(known, withoutCode(*r.Decision))
	kept := known.decision
	s.mu.Unlock()
	s.enter(ctx, before, kept, nil)
}

// planned says what would change, by dimension.
func planned(before, after api.Decision) (out []api.Result) {
	for _, d := range policy.Dimensions {
		changed := before.Effective.Diff(after.Effective, func(k policy.Key) bool { return k.Dimension() == d })
		if len(changed) > 0 {
			out = append(out, api.Result{Lever: string(d), Status: api.ResultPlanned, Changed: changed})
		}
	}
	return out
}
