package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// List implements api.Orchestrator.
func (s *Service) List(context.Context) (api.ListResponse, error) {
	gone := s.gone()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]api.Container, 0, len(s.running))
	for id, r := range s.running {
		if !gone[id] {
			out = append(out, describe(id, r))
		}
	}
	slices.SortFunc(out, func(a, b api.Container) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return api.ListResponse{Containers: out}, nil
}

// gone returns the containers that have ended without a word: their shim is
// dead, or the record that it had written has been removed. It completes what was admitted
// before the container existed. Files are not read under the lock that Admit needs.
func (s *Service) gone() map[workload.ID]bool {
	type known struct {
		run     string
		existed bool // or had the time to
	}
	all := make(map[workload.ID]known)
	s.mu.Lock()
	for id, r := range s.running {
		all[id] = known{r.decision.Facts.Run, r.pid != 0 || s.cfg.Now().Sub(r.decision.Time) > creation}
	}
	s.mu.Unlock()
	gone := make(map[workload.ID]bool)
	for id, k := range all {
		rec, err := s.cfg.Containers.Read(id)
		switch {
		case err != nil:
			gone[id] = k.existed && errors.Is(err, fs.ErrNotExist)
		case rec.Run != k.run: // an earlier run's, or a later one's
			gone[id] = k.existed
		case !rec.Alive():
			gone[id] = true
		default:
			s.located(id, rec)
		}
	}
	return gone
}

// creation is the time within which an admitted container has a record, or its
// creation has failed.
const creation = 10 * time.Second

// located notes what a record says of a running container.
func (s *Service) located(id workload.ID, rec record.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[id]; r != nil && r.decision.Facts.Run == rec.Run {
		r.pid, r.started = rec.PID, rec.Started
	}
}

// describe is one row of ps.
func describe(id workload.ID, r *running) api.Container {
	e := r.decision.Effective
	limits := api.Limits{}
	limits.Memory, _ = e.Limit(policy.KeyMemory)
	limits.MemorySoft, _ = e.Limit(policy.KeyMemorySoft)
	limits.PIDs, _ = e.Limit(policy.KeyPIDs)
	if cpus, ok := e.Limit(policy.KeyCPUs); ok {
		limits.CPUs = float64(cpus) / 1000
	}
	// A node's containers must fit into one message: what history has in detail stays out.
	prediction := r.decision.Prediction
	prediction.Seen, prediction.Hot, prediction.Destinations = nil, nil, nil
	return api.Container{
		ID: id, Run: r.decision.Facts.Run, Name: r.decision.Facts.Name(), Image: r.decision.Facts.Image.Name,
		PID: r.pid, Mode: policy.KeyMode.Format(e.Mode()), Sealed: e.Sealed(), Started: r.started,
		Prediction: prediction, Usage: r.usage, Limits: limits, By: r.decision.Availability,
		Risk: briefly(r.assessed()), Forecasts: r.found.Forecasts,
	}
}

// Subject is a running container as rules of egress see it.
type Subject struct {
	Workload string
	Image    string
	Risk     int    // 0 to 100
	Label    string // the class of data that it claims and that no grant lets it rely on; "": none
}

// Subject tells of a running container.
func (s *Service) Subject(id workload.ID) (Subject, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[id]
	if r == nil {
		return Subject{}, false
	}
	subject := Subject{Workload: r.decision.Facts.Name(), Image: r.decision.Facts.Image.Name}
	if r.decision.Data == "" {
		subject.Label = policy.DataClass(r.decision.Facts.Annotations)
	}
	if risk := r.assessed(); risk != nil {
		subject.Risk = int(risk.Score)
	}
	return subject, true
}

// RiskChange returns what is closed when the risk of a running container is another one than now.
func (s *Service) RiskChange() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.riskChange == nil {
		s.riskChange = make(chan struct{})
	}
	return s.riskChange
}

// assessLocked notes the risk of a running container, and tells who waits where it is another number. s.mu is held.
func (s *Service) assessLocked(r *running, now *evidence.Risk) {
	before := scoreOf(r.assessed())
	r.risk = now
	if s.riskChange != nil && scoreOf(r.assessed()) != before {
		close(s.riskChange)
		s.riskChange = nil
	}
}

// scoreOf is a risk as rules see it.
func scoreOf(r *evidence.Risk) int {
	if r == nil {
		return 0
	}
	return int(r.Score)
}

// Tell publishes an event that is not about one container.
func (s *Service) Tell(e api.Event) { s.publish(e) }

// assessed is the container's risk as of its last report, else as it was decided; nil: not known.
func (r *running) assessed() *evidence.Risk {
	if r.risk != nil {
		return r.risk
	}
	return r.decision.Risk
}

// briefly leaves out the factors' reasons.
func briefly(r *evidence.Risk) *evidence.Risk {
	if r == nil {
		return nil
	}
	return &evidence.Risk{Score: r.Score, Level: r.Level}
}

// Explain implements api.Orchestrator: the decision in force, else the last
// one the journal has of that container.
func (s *Service) Explain(ctx context.Context, req api.ExplainRequest) (api.Decision, error) {
	s.mu.Lock()
	r := s.running[req.ID]
	if r != nil {
		d := r.decision
		d.Risk = r.assessed()
		d.Findings = d.Findings.With(r.found)
		s.mu.Unlock()
		return d, nil
	}
	s.mu.Unlock()
	d, err := s.journal.Decision(ctx, req.ID)
	if err != nil {
		return d, fmt.Errorf("no decision about container %s is known: %w", req.ID, err)
	}
	return d, nil
}

// History implements api.Orchestrator.
func (s *Service) History(ctx context.Context, req api.HistoryRequest) (api.HistoryResponse, error) {
	return s.history.Search(ctx, req)
}

// Events implements api.Orchestrator.
func (s *Service) Events(ctx context.Context, req api.EventsRequest) (api.EventsResponse, error) {
	if req.Limit < 0 || req.Wait < 0 {
		return api.EventsResponse{}, fmt.Errorf("limit and wait cannot be negative: %w", errdefs.ErrInvalidArgument)
	}
	return s.events.read(ctx, req), nil
}

// Status implements api.Orchestrator.
func (s *Service) Status(context.Context) (api.Status, error) {
	st := s.cfg.Status()
	s.mu.Lock()
	st.Containers = len(s.running)
	s.mu.Unlock()
	st.API = api.Version
	return st, nil
}
