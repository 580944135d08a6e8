package orchestrator

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Predictor gathers what its sources know of a container that is to be created, and what follows from it.
type Predictor interface {
	// Foresee answers from memory: what would block, ctx's end included, it leaves out and says so. It may complete
	// the facts of the request.
	Foresee(context.Context, *api.AdmitRequest) Foresight
	// Await returns once what Foresight.Wait was about is known or given up, at the latest when ctx ends.
	Await(context.Context, workload.Facts)
	// Profile lists what is known of users and groups.
	Profile(api.ProfileRequest) api.ProfileResponse
}

// Foresight is what a Predictor knows of a container. Pointers are nil where nothing is known; what they point to is not
// written to.
type Foresight struct {
	Prediction workload.Prediction
	Claims     []policy.Claim
	Scan       *evidence.Scan
	Risk       *evidence.Risk
	Load       *evidence.Load
	Standing   *evidence.Standing
	Past       evidence.Findings
	Sources    []api.Source
	Notes      []string
	// Wait is how long it is worth waiting for a source that will know more then; 0: all is known that can be.
	Wait time.Duration
}

// Monitor makes findings of what a running container reports.
type Monitor interface {
	// Watch looks at a report of a run before it is recorded and returns what is found in all its reports. before is what
	// it returned last; news are the events about what is found for the first time. A final report ends the run.
	Watch(o *workload.Observation, d api.Decision, before evidence.Findings) (f evidence.Findings, news []api.Event)
	// Forget ends a run of which nobody will report again.
	Forget(run string)
	// Reassess works out the risk of a running container anew.
	Reassess(api.Decision, evidence.Findings) *evidence.Risk
}

// longestWait bounds what a patient shim is told to wait, whatever is configured.
const longestWait = time.Minute

// foresee asks every source about the container of req, whose facts it completes.
func (s *Service) foresee(ctx context.Context, req *api.AdmitRequest) Foresight {
	facts := &req.Facts
	facts.Requested = admit.Requested(*req, s.cfg.Unified)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Predict)
	defer cancel()
	sources := s.identity.Identify(ctx, facts)
	f := s.predictor.Foresee(ctx, req)
	f.Sources = append(sources, f.Sources...)
	f.Wait = min(f.Wait, longestWait)
	if !req.Patient || req.Waited || req.DryRun {
		f.Wait = 0
	}
	return f
}

// input is what a decision is made from.
func (s *Service) input(req api.AdmitRequest, f Foresight) admit.Input {
	return admit.Input{
		Request: req, Site: s.cfg.Site, Privileged: s.cfg.Privileged, Unified: s.cfg.Unified, Availability: api.ByDaemon,
		NodeMemory: s.cfg.NodeMemory, Reserve: s.cfg.Reserve,
		Prediction: f.Prediction, Predicted: f.Claims, Scan: f.Scan, Risk: f.Risk, Load: f.Load, Standing: f.Standing, Past: f.Past,
		Sources: f.Sources, Notes: f.Notes, Now: s.cfg.Now(), Compiler: &s.compiler,
	}
}

// Await implements api.Orchestrator.
func (s *Service) Await(ctx context.Context, req api.AwaitRequest) error {
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return err
	}
	if err := req.Facts.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, longestWait)
	defer cancel()
	s.predictor.Await(ctx, req.Facts)
	return nil
}

// Profile implements api.Orchestrator.
func (s *Service) Profile(_ context.Context, req api.ProfileRequest) (api.ProfileResponse, error) {
	if req.Limit < 0 {
		return api.ProfileResponse{}, fmt.Errorf("a limit cannot be negative: %w", errdefs.ErrInvalidArgument)
	}
	return s.predictor.Profile(req), nil
}

// watch lets the monitor look at an observation that is about to be recorded, notes what it found with the run and in
// the observation, and tells of the news.
func (s *Service) watch(ctx context.Context, o *workload.Observation) {
	news, ours := s.look(o)
	for _, e := range news {
		s.tell(ctx, e)
	}
	if ours && s.cfg.responds() && !o.Final {
		s.responses.at(o.ID, s.cfg.Now())
	}
}

// look is watch without telling, and reports whether the run is one that the daemon knows. One report of a container is looked at after the
// other: what is found in it is added to what was found before. A few containers share their turns.
func (s *Service) look(o *workload.Observation) (news []api.Event, ours bool) {
	turn := &s.watching[maphash.Comparable(s.seed, o.ID)%uint64(len(s.watching))]
	turn.Lock()
	defer turn.Unlock()
	s.mu.Lock()
	r := s.running[o.ID]
	if s.monitor == nil || r == nil || r.decision.Facts.Run != o.Run {
		s.mu.Unlock()
		return nil, false
	}
	d, before, past := r.decision, r.found, r.past
	s.mu.Unlock()
	found, news := s.monitor.Watch(o, d, before)
	found = past.With(found)
	risk := s.monitor.Reassess(d, found)
	o.Findings = found
	o.Findings.Forecasts = nil // of a moment, not of the run
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[o.ID]; r != nil && r.decision.Facts.Run == o.Run {
		before := r.assessed()
		r.found, r.usage = found, o.Usage
		r.looks++
		s.assessLocked(r, risk)
		r.usage.Series = nil
		if before != nil && risk != nil && before.Level != risk.Level {
			news = append(news, riskEvent(o, before, risk, s.cfg.Now()))
		}
	}
	return news, true
}

// riskEvent tells of a level that is another than before, with the factor that weighs most.
func riskEvent(o *workload.Observation, before, after *evidence.Risk, now time.Time) api.Event {
	message := fmt.Sprintf("risk %s (%.0f of 100), was %s (%.0f)", after.Level, after.Score, before.Level, before.Score)
	if len(after.Factors) > 0 {
		message += fmt.Sprintf("; most of it: %s, %s", after.Factors[0].Name, after.Factors[0].Why)
	}
	return api.Event{
		Time: now, ID: o.ID, Run: o.Run, Kind: api.EventRisk, Message: message,
		Fields: map[string]string{"level": string(after.Level), "before": string(before.Level), "score": fmt.Sprintf("%.0f", after.Score)},
	}
}
