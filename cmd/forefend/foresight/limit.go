package foresight

import (
	"strconv"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Limiter lets the predicted memory limits of running containers follow forecasts, calm and risk.
type Limiter struct {
	Calm  time.Duration // see recommend.Room
	Relax time.Duration // for how long growth must have been no anomaly before it is no longer held

	mu   sync.Mutex
	runs map[string]*limited // by run; guarded by mu
}

// limited is what is remembered of a run.
type limited struct {
	room      recommend.Room
	anomalous time.Time // when growth last was
}

var _ orchestrator.Limiter = (*Limiter)(nil)

// Limit implements orchestrator.Limiter.
func (l *Limiter) Limit(d api.Decision, u workload.Usage, f evidence.Findings, risk evidence.Risk, now time.Time) (resp orchestrator.Response) {
	limit, ok := d.Effective.Limit(policy.KeyMemory)
	if by, _ := d.Effective.Lookup(policy.KeyMemory); !ok || d.Airbag == nil || by.Author != policy.Prediction {
		return resp // somebody else's
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.run(d.Facts.Run)
	t := d.Airbag
	held, why := r.held(t.Held, bounded(admit.Anomalous(&risk, d.Standing)), now, l.Relax)
	if why != t.Held {
		resp.Held, resp.Reason = &why, "growth of memory is an anomaly no longer"
		if held {
			resp.Reason = "growth of memory is held: " + why
		}
	}
	if held {
		resp.Again = max(l.Relax/4, time.Second)
	}
	to, reason, next := r.room.Next(recommend.RoomFor{
		Limit: limit, Predicted: t.Predicted, Ceiling: t.Ceiling, Need: u.MemoryNeed, Growth: t.Growth, Held: held, Sized: t.Sized, Forecast: forecastOf(f),
	}, now, l.Calm)
	r.room = next
	if to > 0 {
		resp.Set = map[string]string{string(policy.KeyMemory): strconv.FormatInt(to, 10)}
		if resp.Reason != "" {
			reason = resp.Reason + "; " + reason
		}
		resp.Reason = reason
	}
	resp.Reason = bounded(resp.Reason)
	return resp
}

func (l *Limiter) run(run string) *limited {
	r := l.runs[run]
	if r == nil {
		r = &limited{}
		if l.runs == nil {
			l.runs = make(map[string]*limited)
		}
		l.runs[run] = r
	}
	return r
}

// held reports whether growth is to be held, and the reason that is to be in force: an anomaly is one at once, and no longer once
// there has been none for a while.
func (r *limited) held(before, anomalous string, now time.Time, relax time.Duration) (bool, string) {
	switch {
	case anomalous != "":
		r.anomalous = now
		if before != "" {
			return true, before // it says as much
		}
		return true, anomalous
	case before == "":
		return false, ""
	case r.anomalous.IsZero(): // another daemon held it, or Create did
		r.anomalous = now
	}
	if now.Sub(r.anomalous) < relax {
		return true, before
	}
	return false, ""
}

// Forget implements orchestrator.Limiter.
func (l *Limiter) Forget(run string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.runs, run)
}

func forecastOf(f evidence.Findings) evidence.Forecast {
	for _, c := range f.Forecasts {
		if c.Resource == "memory" {
			return c
		}
	}
	return evidence.Forecast{}
}
