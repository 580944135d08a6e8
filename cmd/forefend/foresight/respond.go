package foresight

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// Responder lets the safeguards of running containers follow their risk.
type Responder struct {
	Table     recommend.Table
	Pace      recommend.Pace
	Sensitive []string // system calls

	mu   sync.Mutex
	runs map[string]*answered // by run; guarded by mu
}

// answered is what has been done about the risk of one run.
type answered struct {
	answer
	before answer // to what was said last
}

// answer is what is in force against a risk.
type answer struct {
	stance recommend.Stance
	set    map[evidence.Safeguard][]string // names of the settings that each made
}

var _ orchestrator.Responder = (*Responder)(nil)

// Respond implements orchestrator.Responder.
func (r *Responder) Respond(d api.Decision, risk evidence.Risk, now time.Time) (resp orchestrator.Response) {
	k := recommend.Known{Prediction: d.Prediction, Scan: scanOf(d.Scan), Risk: risk, NameServers: d.Facts.NameServers}
	wanted, trade := r.Table.Respond(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.run(d, now)
	step, next := a.stance.Next(wanted, now, r.Pace)
	a.before = a.answer
	a.stance, a.set = next, maps.Clone(a.set)
	resp.Set = make(map[string]string)
	var added, dropped []string
	observed := d.Effective.Mode() == policy.ModeObserve // where nothing but guardrails is put in force
	for _, s := range step.Add {
		if action, stops := actions[s]; stops && !observed && resp.Action != api.ActionKill {
			resp.Action = action
		}
		settings := recommend.Settings(s, k, r.Sensitive, d.Effective)
		maps.Copy(resp.Set, settings)
		a.set[s] = slices.Sorted(maps.Keys(settings))
		added = append(added, string(s))
	}
	for _, s := range step.Drop {
		if s == evidence.SafeguardFreeze && resp.Action == "" && !observed {
			resp.Action = api.ActionThaw
		}
		for _, name := range a.set[s] {
			if _, again := resp.Set[name]; !again {
				resp.Unset = append(resp.Unset, name)
			}
		}
		delete(a.set, s)
		dropped = append(dropped, string(s))
	}
	resp.Reason = reason(risk, trade, added, dropped)
	resp.Again = r.again(step.Again, a.stance, d, risk)
	return resp
}

// actions are what is done at once to a running container.
var actions = map[evidence.Safeguard]api.Action{evidence.SafeguardFreeze: api.ActionFreeze, evidence.SafeguardKill: api.ActionKill}

// run is what has been done about a run. Of one whose answers another daemon gave it is read off the policy.
func (r *Responder) run(d api.Decision, now time.Time) *answered {
	a := r.runs[d.Facts.Run]
	if a != nil {
		return a
	}
	a = &answered{answer: answer{set: make(map[evidence.Safeguard][]string)}}
	for _, c := range d.Effective.ClaimsBy(policy.Prediction) {
		if c.Source != orchestrator.SourceRisk {
			continue
		}
		s, name, known := recommend.SafeguardOf(c)
		if !known {
			continue
		}
		if len(a.set[s]) == 0 {
			a.stance.Held = append(a.stance.Held, recommend.Hold{Safeguard: s, Wanted: now})
		}
		if !slices.Contains(a.set[s], name) {
			a.set[s] = append(a.set[s], name)
		}
	}
	if r.runs == nil {
		r.runs = make(map[string]*answered)
	}
	r.runs[d.Facts.Run] = a
	return a
}

// again is when to look at a risk although nothing is reported: it falls by itself.
func (r *Responder) again(next time.Duration, s recommend.Stance, d api.Decision, risk evidence.Risk) time.Duration {
	const soonest = 200 * time.Millisecond
	if len(s.Held) == 0 && (d.Risk == nil || risk.Score <= d.Risk.Score+0.5) {
		return next
	}
	look := max(r.Pace.Calm/4, soonest)
	if next > 0 {
		look = min(look, max(next, soonest))
	}
	return look
}

// Failed implements orchestrator.Responder: what was said last was not done. It counts as a change all the same, so that what
// fails again and again is not tried without a bound.
func (r *Responder) Failed(run string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.runs[run]; a != nil {
		changes := a.stance.Changes
		a.answer = a.before
		a.stance.Changes = changes
	}
}

// Forget implements orchestrator.Responder.
func (r *Responder) Forget(run string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.runs, run)
}

// reason is what explain and events say of a change.
func reason(risk evidence.Risk, trade recommend.Trade, added, dropped []string) string {
	var words []string
	if len(added) > 0 {
		words = append(words, "safeguards "+strings.Join(added, ", "))
	}
	if len(dropped) > 0 {
		words = append(words, "no longer "+strings.Join(dropped, ", "))
	}
	for _, s := range trade.Missing {
		words = append(words, fmt.Sprintf("no lever for %s here", s))
	}
	return bounded(strings.Join(words, "; ") + "; " + recommend.Why(risk))
}

// bounded is as much of a reason as a request may have.
func bounded(why string) string {
	const most = 1000 // bytes
	return strings.ToValidUTF8(why[:min(len(why), most)], "")
}

// scanOf is the part of a scan that a decision keeps.
func scanOf(s *api.Scan) *evidence.Scan {
	if s == nil {
		return nil
	}
	return &evidence.Scan{Entry: s.Entry, Syscalls: s.Syscalls, Unknown: s.Unknown, Ports: s.Ports}
}
