package foresight

import (
	"fmt"
	"strconv"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/monitor"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// The probability from which a limit that is about to be reached is an event, and the one below which it may become one
// again.
const (
	likely   = 0.5
	unlikely = 0.2
)

// Watcher shows a monitor as the orchestrator's.
type Watcher struct {
	Monitor *monitor.Monitor
	Calm    time.Duration // see Reassess
	Now     func() time.Time
}

var _ orchestrator.Monitor = (*Watcher)(nil)

// Watch implements orchestrator.Monitor.
func (w *Watcher) Watch(o *workload.Observation, d api.Decision, before evidence.Findings) (evidence.Findings, []api.Event) {
	now := w.Now()
	if o.Final && !o.Ended.IsZero() && o.Ended.Before(now) {
		now = o.Ended
	}
	found, fresh := w.Monitor.Observe(o, subject(d), now)
	return found, events(o, fresh, before, now)
}

// Reassess implements orchestrator.Monitor.
func (w *Watcher) Reassess(d api.Decision, f evidence.Findings) *evidence.Risk {
	return Reassess(d, f, w.Now(), w.Calm)
}

// Forget implements orchestrator.Monitor.
func (w *Watcher) Forget(run string) { w.Monitor.Forget(run) }

// subject is what a decision says of a container's program and limits.
func subject(d api.Decision) monitor.Subject {
	limit := func(k policy.Key) float64 {
		v, ok := d.Effective.Limit(k)
		if !ok || v < 0 {
			return 0
		}
		return float64(v)
	}
	return monitor.Subject{
		Program: monitor.Program{Path: d.Facts.Executable.Path, SHA256: d.Facts.Executable.SHA256},
		Limits:  monitor.Limits{Memory: limit(policy.KeyMemory), CPUs: limit(policy.KeyCPUs) / 1000, PIDs: limit(policy.KeyPIDs)},
	}
}

// events tells of findings that are new.
func events(o *workload.Observation, fresh, before evidence.Findings, now time.Time) (out []api.Event) {
	tell := func(kind, message string, fields map[string]string) {
		out = append(out, api.Event{Time: now, ID: o.ID, Run: o.Run, Kind: kind, Message: message, Fields: fields})
	}
	for _, a := range fresh.Anomalies {
		tell(api.EventAnomaly, fmt.Sprintf("%s: %s (score %.3g, alarm from %.3g, %.3g false alarms an hour)", a.Kind, a.Why, a.Score, a.Threshold, a.PerHour),
			map[string]string{"kind": a.Kind, "score": short(a.Score), "threshold": short(a.Threshold)})
	}
	for _, c := range fresh.Contacts {
		verb := "reached"
		if c.Refused {
			verb = "was refused"
		}
		tell(api.EventThreat, fmt.Sprintf("%s %s, listed by %s as %s (confidence %.2f)", verb, c.Destination, c.Feed, c.Indicator, c.Confidence),
			map[string]string{"destination": c.Destination, "indicator": c.Indicator, "feed": c.Feed, "confidence": short(c.Confidence)})
	}
	for _, t := range fresh.Techniques {
		tell(api.EventThreat, fmt.Sprintf("%s %s: %s (confidence %.2f)", t.ID, t.Name, t.Why, t.Confidence),
			map[string]string{"technique": t.ID, "confidence": short(t.Confidence), "severity": short(t.Severity)})
	}
	for _, f := range fresh.Forecasts {
		if f.Probability < likely || f.Limit <= 0 || wasLikely(before, f.Resource) {
			continue
		}
		tell(api.EventForecast, fmt.Sprintf("%s is likely to reach its limit of %s in %s (probability %.2f within %s)", f.Resource, amount(f.Resource, f.Limit),
			f.TimeToLimit.Round(time.Second), f.Probability, f.Horizon),
			map[string]string{"resource": f.Resource, "probability": short(f.Probability), "seconds": short(f.TimeToLimit.Seconds())})
	}
	return out
}

// wasLikely reports whether an event has told of that resource already: it was likely before, and has not become
// unlikely since.
func wasLikely(before evidence.Findings, resource string) bool {
	for _, f := range before.Forecasts {
		if f.Resource == resource {
			return f.Probability > unlikely
		}
	}
	return false
}

func amount(resource string, v float64) string {
	if resource == "memory" {
		return policy.KeyMemory.Format(policy.Value(v))
	}
	return short(v)
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }
