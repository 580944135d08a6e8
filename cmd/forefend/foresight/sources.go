package foresight

import (
	"context"
	"fmt"
	"time"

	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/profile"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Sources are the models of one node. A nil one is absent.
type Sources struct {
	History  func(workload.Query) workload.Prediction
	Load     func() (evidence.Load, bool)
	Scans    *scans.Scans
	Profiles *profile.Book
	Threats  *Threats
	// Judge works out risk and recommendation from what the sources said.
	Judge func(Known) Judgement
}

// Known is what the sources said of one container.
type Known struct {
	Request    *api.AdmitRequest
	Prediction workload.Prediction
	Scan       *evidence.Scan
	Load       *evidence.Load
	Standing   *evidence.Standing
	Past       evidence.Findings // of earlier runs of the same code
}

// Judgement is what follows from it.
type Judgement struct {
	Risk   *evidence.Risk
	Claims []policy.Claim
	Notes  []string
}

var _ orchestrator.Predictor = (*Sources)(nil)

// Foresee implements orchestrator.Predictor.
func (s *Sources) Foresee(ctx context.Context, req *api.AdmitRequest) orchestrator.Foresight {
	k := Known{Request: req}
	var f orchestrator.Foresight
	ask := func(name string, source func() (status, reason string)) {
		src := api.Source{Name: name}
		began := time.Now()
		src.Status, src.Reason = source()
		src.Took = time.Since(began)
		f.Sources = append(f.Sources, src)
	}
	ask("scan", func() (status, reason string) {
		if ctx.Err() != nil { // it may have to read a file
			return api.SourceLate, "no time was left of the prediction budget"
		}
		k.Scan, f.Wait, status, reason = s.scan(req.Facts)
		return status, reason
	})
	if k.Scan != nil {
		req.Facts.Prior = k.Scan.Memory
	}
	// The others answer from memory in microseconds: they are asked even when another source has used up the time.
	began := time.Now()
	k.Prediction = s.History(req.Facts.Query())
	f.Sources = append(f.Sources, historySource(k.Prediction, time.Since(began)))
	ask("profile", func() (string, string) { return s.standing(&k) })
	ask("threats", func() (string, string) { return s.threats(&k) })
	ask("load", func() (string, string) { return s.load(&k) })
	j := s.Judge(k)
	f.Prediction, f.Claims, f.Scan, f.Risk, f.Load = k.Prediction, j.Claims, k.Scan, j.Risk, k.Load
	f.Standing, f.Past, f.Notes = k.Standing, k.Past, j.Notes
	return f
}

func (s *Sources) scan(facts workload.Facts) (scan *evidence.Scan, wait time.Duration, status, reason string) {
	if s.Scans == nil {
		return nil, 0, api.SourceAbsent, "static analysis is switched off or has no scanner"
	}
	scan, wait, err := s.Scans.Lookup(facts)
	switch err {
	case nil:
		return scan, 0, api.SourceOK, fmt.Sprintf("%d calls reachable in %d files, %d places not followed", len(scan.Syscalls), len(scan.Programs), len(scan.Unknown))
	case scans.ErrPending:
		return nil, wait, api.SourceLate, err.Error()
	case scans.ErrUnknown:
		return nil, 0, api.SourceAbsent, err.Error()
	}
	return nil, 0, api.SourceFailed, err.Error()
}

func historySource(p workload.Prediction, took time.Duration) api.Source {
	src := api.Source{Name: "history", Status: api.SourceOK, Took: took, Reason: fmt.Sprintf("%d runs at level %s", p.Runs, p.Level)}
	if p.Runs == 0 {
		src.Status, src.Reason = api.SourceAbsent, "no earlier run of this or similar workloads"
	}
	return src
}

func (s *Sources) standing(k *Known) (status, reason string) {
	if s.Profiles == nil {
		return api.SourceAbsent, "nobody keeps profiles"
	}
	facts := k.Request.Facts
	standing := s.Profiles.Standing(facts.User, facts.Group)
	k.Standing, k.Past = &standing, s.Profiles.Past(facts.Keys())
	if standing.Runs == 0 {
		return api.SourceAbsent, standing.Why
	}
	return api.SourceOK, fmt.Sprintf("trust %.2f: %s", standing.Trust, standing.Why)
}

// threats adds what feeds say of the programs that would run to what earlier runs were caught at.
func (s *Sources) threats(k *Known) (status, reason string) {
	if s.Threats == nil {
		return api.SourceAbsent, "no feeds and no attack patterns"
	}
	listed := s.Threats.Listed(time.Now(), k.Request.Facts, k.Scan)
	k.Past = k.Past.With(evidence.Findings{Contacts: listed})
	prefixes, names := s.Threats.Set().Size()
	reason = fmt.Sprintf("%d prefixes, %d names, %d attack patterns; %d contacts and %d patterns known of this code",
		prefixes, names, s.Threats.Patterns().Len(), len(k.Past.Contacts), len(k.Past.Techniques))
	return api.SourceOK, reason
}

func (s *Sources) load(k *Known) (status, reason string) {
	if s.Load == nil {
		return api.SourceAbsent, "nobody samples the node's load"
	}
	load, ok := s.Load()
	if !ok {
		return api.SourceAbsent, "not read yet"
	}
	k.Load = &load
	reason = fmt.Sprintf("CPU %.0f %%, memory %.0f %%", 100*load.CPU, 100*load.Memory)
	for resource := range load.Tight {
		reason += ", " + resource + " short"
	}
	return api.SourceOK, reason
}

// Await implements orchestrator.Predictor.
func (s *Sources) Await(ctx context.Context, facts workload.Facts) {
	if s.Scans != nil {
		s.Scans.Await(ctx, facts)
	}
}

// rows is how many standings are listed unless asked otherwise.
const rows = 100

// Profile implements orchestrator.Predictor.
func (s *Sources) Profile(req api.ProfileRequest) (resp api.ProfileResponse) {
	switch {
	case s.Profiles == nil:
	case req.Name == "":
		limit := req.Limit
		if limit == 0 {
			limit = rows
		}
		resp.Standings = s.Profiles.List(limit)
	default:
		if standing, ok := s.Profiles.Of(req.Name, req.Group); ok {
			resp.Standings = []evidence.Standing{standing}
		}
	}
	return resp
}
