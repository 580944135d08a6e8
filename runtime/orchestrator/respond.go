package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Responder says what is to be done about the risk of a running container. It keeps what it has said of each run, and takes
// it for done unless it is told that it failed.
type Responder interface {
	// Respond is asked again after each report of the run, and when Response.Again has passed. risk is as of now.
	Respond(d api.Decision, risk evidence.Risk, now time.Time) Response
	// Failed says that what Respond said last of a run could not be done.
	Failed(run string, now time.Time)
	// Forget ends a run.
	Forget(run string)
}

// Limiter says what is to become of the predicted memory limit of a running container. The shim raises it before it is
// reached; a Limiter looks further, and keeps what it needs of each run.
type Limiter interface {
	// Limit is asked again after each report of the run. u is what was reported, risk as of now.
	Limit(d api.Decision, u workload.Usage, f evidence.Findings, risk evidence.Risk, now time.Time) Response
	// Forget ends a run.
	Forget(run string)
}

// Response is a change of a running container's policy, in the words of api.AdjustRequest. Empty: nothing changes.
type Response struct {
	Set    map[string]string
	Unset  []string
	Held   *string
	Action api.Action // besides; empty: none
	Reason string
	Again  time.Duration // after which time to ask again though nothing is reported; 0: never
}

// SourceRisk is the source of what is changed for a risk.
const SourceRisk = "risk"

const (
	respondAtOnce = 8                // containers whose policy is being changed; a shim that hangs holds up one of them
	respondRetry  = 5 * time.Second  // after a change that failed
	respondTime   = 40 * time.Second // of one change: adaptTime and the turn before it
)

// responses are the containers whose risk is to be looked at, and when.
type responses struct {
	mu   sync.Mutex
	due  map[workload.ID]time.Time // guarded by mu
	busy map[workload.ID]bool      // guarded by mu
	wake chan struct{}
}

func newResponses() *responses {
	return &responses{due: make(map[workload.ID]time.Time), busy: make(map[workload.ID]bool), wake: make(chan struct{}, 1)}
}

// at has a container looked at at a time, or earlier if that was planned.
func (r *responses) at(id workload.ID, when time.Time) {
	r.mu.Lock()
	if before, planned := r.due[id]; !planned || when.Before(before) {
		r.due[id] = when
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns the containers that are due and not busy, makes them busy, and says how long until the next is due; 0: none is.
func (r *responses) take(now time.Time, most int) (ids []workload.ID, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, when := range r.due {
		switch d := when.Sub(now); {
		case r.busy[id]: // done wakes
		case d <= 0 && len(ids) < most:
			ids = append(ids, id)
			r.busy[id] = true
			delete(r.due, id)
		default:
			if d = max(d, time.Millisecond); wait == 0 || d < wait {
				wait = d
			}
		}
	}
	return ids, wait
}

func (r *responses) done(id workload.ID) {
	r.mu.Lock()
	delete(r.busy, id)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// respond answers the risks of running containers until ctx ends.
func (s *Service) respond(ctx context.Context) {
	var changing sync.WaitGroup
	defer changing.Wait()
	room := make(chan struct{}, respondAtOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ids, wait := s.responses.take(s.cfg.Now(), cap(room)-len(room))
		for _, id := range ids {
			room <- struct{}{}
			changing.Go(func() {
				defer func() {
					<-room
					s.responses.done(id)
				}()
				s.respondTo(ctx, id)
			})
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.responses.wake:
		case <-timer.C:
		}
	}
}

// respondTo looks at one container's risk and changes its policy accordingly, by the same way as people do.
func (s *Service) respondTo(ctx context.Context, id workload.ID) {
	is, ok := s.reassess(ctx, id)
	if !ok {
		return
	}
	run := is.decision.Facts.Run
	do := func(source string, r Response, failed func()) {
		if len(r.Set)+len(r.Unset) > 0 || r.Action != "" || r.Held != nil {
			if err := s.carryOut(ctx, id, source, r); err != nil && ctx.Err() == nil {
				failed()
				log.G(ctx).WithError(err).WithFields(log.Fields{"id": id.String(), "run": run}).Warn("forefend: a running container's policy was not changed: " + r.Reason)
				r.Again = respondRetry
			}
		}
		if r.Again > 0 {
			s.responses.at(id, s.cfg.Now().Add(r.Again))
		}
	}
	if by := s.cfg.Responder; by != nil {
		do(SourceRisk, by.Respond(is.decision, is.risk, s.cfg.Now()), func() { by.Failed(run, s.cfg.Now()) })
	}
	if by := s.cfg.Limiter; by != nil && is.decision.Airbag != nil {
		do(api.SourceAirbag, by.Limit(is.decision, is.usage, is.found, is.risk, s.cfg.Now()), func() {})
	}
}

// A moment is what is known of a running container now.
type moment struct {
	decision api.Decision
	usage    workload.Usage
	found    evidence.Findings
	risk     evidence.Risk
}

// reassess works out the risk of a running container as of now, and tells of another level.
func (s *Service) reassess(ctx context.Context, id workload.ID) (is moment, ok bool) {
	s.mu.Lock()
	r := s.running[id]
	if r == nil || r.decision.AsAsked {
		s.mu.Unlock()
		return is, false
	}
	is = moment{decision: r.decision, usage: r.usage, found: r.found}
	d, before, looks := r.decision, r.assessed(), r.looks
	s.mu.Unlock()
	now := s.monitor.Reassess(d, is.found)
	if now == nil {
		return is, false
	}
	is.risk = *now
	s.mu.Lock()
	if r := s.running[id]; r != nil && r.decision.Facts.Run == d.Facts.Run {
		if r.looks != looks { // something was found meanwhile: that risk counts, and is responded to next
			s.mu.Unlock()
			return is, false
		}
		s.assessLocked(r, now)
	}
	s.mu.Unlock()
	if before != nil && before.Level != now.Level {
		s.tell(ctx, riskEvent(&workload.Observation{ID: id, Run: d.Facts.Run}, before, now, s.cfg.Now()))
	}
	return is, true
}

// carryOut changes the policy of a running container as the daemon itself wants it.
func (s *Service) carryOut(ctx context.Context, id workload.ID, source string, r Response) error {
	ctx, cancel := context.WithTimeout(ctx, respondTime)
	defer cancel()
	req := api.AdjustRequest{Version: api.Version, ID: id, Author: policy.Prediction, Source: source, Reason: r.Reason}
	var errs []error
	if r.Action != "" { // first: it does not wait for a change that hangs
		act := req
		act.Action = r.Action
		_, err := s.adjust(ctx, act)
		errs = append(errs, err)
	}
	if len(r.Set)+len(r.Unset) > 0 || r.Held != nil {
		req.Set, req.Unset, req.Held = r.Set, r.Unset, r.Held
		resp, err := s.adjust(ctx, req)
		errs = append(errs, err)
		for _, result := range resp.Results { // what is refused will be refused again, and events say so
			if result.Status == api.ResultFailed {
				errs = append(errs, errors.New(result.Lever+": "+result.Reason))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	log.G(ctx).WithFields(log.Fields{
		"id": id.String(), "set": slices.Sorted(maps.Keys(r.Set)), "unset": r.Unset, "action": r.Action,
	}).Info("forefend: " + r.Reason)
	return nil
}

// tell logs an event and publishes it.
func (s *Service) tell(ctx context.Context, e api.Event) {
	log.G(ctx).WithFields(log.Fields{"id": e.ID.String(), "run": e.Run, "kind": e.Kind}).Info("forefend: " + e.Message)
	s.publish(e)
}

// act has a container's shim do something at once. It does not wait for a change that is under way.
func (s *Service) act(ctx context.Context, req api.AdjustRequest) (resp api.AdjustResponse, err error) {
	if _, err := api.ParseAction(string(req.Action)); err != nil {
		return resp, err
	}
	if len(req.Set)+len(req.Unset) > 0 || req.Reset || req.Rollback != 0 {
		return resp, fmt.Errorf("%s is no change of a policy, and goes with none: %w", req.Action, errdefs.ErrInvalidArgument)
	}
	r, err := s.runningRecord(req.ID)
	switch {
	case err != nil:
		return resp, err
	case req.DryRun:
		return api.AdjustResponse{Decision: *r.Decision}, nil
	}
	adapted, err := adapt(ctx, r.ShimSocket, api.AdaptRequest{
		Version: api.Version, ID: req.ID, Run: r.Run, Action: req.Action, Author: req.Author, Source: req.Source, Reason: req.Reason,
	})
	if err != nil {
		return resp, fmt.Errorf("container %s: %w", req.ID, err)
	}
	return api.AdjustResponse{Decision: adapted.Decision, Results: adapted.Results}, nil
}
