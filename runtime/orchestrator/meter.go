package orchestrator

import (
	"context"
	"path"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Meter counts what a Service does. Its methods are called from any goroutine while a container waits: they return at
// once, and what they keep does not grow with what they are given.
type Meter interface {
	Decided(Outcome)
	Observed(observations int, lost uint64, took time.Duration, err error)
	Published(kind string)
}

// What a decision was asked for.
const (
	OperationAdmit  = "admit"  // a container that is to be created
	OperationUpdate = "update" // new resources for a running one
	OperationAdjust = "adjust" // another policy for a running one
	OperationRevert = "revert" // the decision before a failed update is in force again
	OperationAlone  = "alone"  // a shim's own, of which it told later
)

// Outcome is how a decision came out. Mode, Sealed, Availability and Sources are zero with an Err.
type Outcome struct {
	Operation    string
	Mode         string
	Sealed       bool
	Availability api.Availability
	Sources      []api.Source
	Took         time.Duration // 0 for OperationAlone
	Err          error
}

// Standing is how a running container is governed.
type Standing struct {
	Mode         string
	Sealed       bool
	Availability api.Availability
}

// Standing counts the containers known to run.
func (s *Service) Standing() map[Standing]int {
	counts := make(map[Standing]int)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.running {
		e := r.decision.Effective
		counts[Standing{policy.KeyMode.Format(e.Mode()), e.Sealed(), r.decision.Availability}]++
	}
	return counts
}

// decided counts a decision and writes the one line about it to the log. The line names neither arguments nor
// environment: a log is read by more people than those may be.
func (s *Service) decided(ctx context.Context, operation string, facts workload.Facts, d api.Decision, took time.Duration, err error) {
	fields := log.Fields{
		"id": facts.ID.String(), "run": facts.Run, "workload": called(facts), "took": took.Round(time.Microsecond).String(),
	}
	out := Outcome{Operation: operation, Took: took, Err: err}
	if err != nil {
		s.meter.Decided(out)
		log.G(ctx).WithFields(fields).WithError(err).Warn("forefend: " + operation + " refused")
		return
	}
	out.Mode, out.Sealed = policy.KeyMode.Format(d.Effective.Mode()), d.Effective.Sealed()
	out.Availability, out.Sources = d.Availability, d.Sources
	s.meter.Decided(out)
	fields["mode"], fields["sealed"], fields["availability"] = out.Mode, out.Sealed, string(d.Availability)
	fields["runs"], fields["revision"] = d.Prediction.Runs, d.Revision
	if operation == OperationAdmit { // an update asks no source
		fields["late"] = lateNames(d.Sources)
	}
	log.G(ctx).WithFields(fields).Info("forefend: " + operation)
}

// called names a workload without the arguments of its command.
func called(f workload.Facts) string {
	name := f.Image.Repository
	if len(f.Args) > 0 {
		name += " -- " + path.Base(f.Args[0])
	}
	f.Image.Repository, f.Executable.Path, f.Args = name, "", nil
	return f.Name() // bounded and printable
}

// lateNames lists the sources that were late, separated by commas; "none" when all were in time.
func lateNames(sources []api.Source) string {
	names := ""
	for _, src := range sources {
		if late(src) {
			names += "," + src.Name
		}
	}
	if names == "" {
		return "none"
	}
	return names[1:]
}

// countAlone counts the decision of a shim whose event e tells of it. The shim has logged it.
func (s *Service) countAlone(e api.Event) {
	by := api.Availability(e.Fields["availability"])
	if e.Kind == api.EventAdmitted && by != "" && by != api.ByDaemon {
		s.meter.Decided(Outcome{
			Operation: OperationAlone, Mode: e.Fields["mode"], Sealed: e.Fields["sealed"] == "true", Availability: by,
		})
	}
}

// noMeter is for a Service that nobody measures.
type noMeter struct{}

func (noMeter) Decided(Outcome)                            {}
func (noMeter) Observed(int, uint64, time.Duration, error) {}
func (noMeter) Published(string)                           {}
