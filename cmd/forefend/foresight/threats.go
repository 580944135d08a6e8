package foresight

import (
	"maps"
	"slices"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/monitor"
	"forefend.dev/forefend/predictor/threat"
	"forefend.dev/forefend/runtime/workload"
)

// Threats shows the threat feeds to a monitor.
type Threats struct{ *threat.Feeds }

var _ monitor.Threats = Threats{}

// Contacts implements monitor.Threats.
func (t Threats) Contacts(now time.Time, destinations []string) []evidence.Contact {
	return t.Set().Contacts(now, destinations...)
}

// Techniques implements monitor.Threats.
func (t Threats) Techniques(o *workload.Observation, p monitor.Program) []evidence.Technique {
	return t.Patterns().Techniques(threat.Facts{
		Program: p.Path, Syscalls: o.Syscalls, Denied: o.Denied,
		Executables: slices.Sorted(maps.Keys(o.Programs)), Destinations: slices.Sorted(maps.Keys(o.Destinations)),
		Events: happenings(o.Trace),
	})
}

// happenings are the calls of a trace in order of time. What it does not hold (programs, destinations) is not in it.
func happenings(t *workload.Trace) []threat.Event {
	calls, err := t.Calls()
	if err != nil {
		return nil // a damaged trace says nothing
	}
	events := make([]threat.Event, 0, len(calls))
	for _, c := range calls {
		events = append(events, threat.Event{Time: t.From.Add(c.At), What: c.Name})
	}
	return events
}

// Listed are the feeds' entries about what would run: the hashes of its programs.
func (t Threats) Listed(now time.Time, f workload.Facts, s *evidence.Scan) []evidence.Contact {
	var hashes []string
	if f.Executable.SHA256 != "" {
		hashes = append(hashes, f.Executable.SHA256)
	}
	if s != nil {
		for _, p := range s.Programs {
			if p.SHA256 != "" {
				hashes = append(hashes, p.SHA256)
			}
		}
	}
	return t.Set().Contacts(now, hashes...)
}
