package replay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"forefend.dev/forefend/cmd/forefend/foresight"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Run is one recorded run.
type Run struct {
	Seen    workload.Observation
	Decided *api.Decision // what it ran under; nil: the journal does not have it any more
}

// History is a predictor.History that is empty at first.
type History interface {
	Predict(workload.Query) workload.Prediction
	Record(context.Context, workload.Observation) error
}

// Settings are those to decide under.
type Settings struct {
	Site       policy.Site
	Privileged string
	Unified    bool
	Judge      func(foresight.Known) foresight.Judgement
}

// Workload is what would have become of the runs of one workload.
type Workload struct {
	Name string `json:"name"`
	Key  string `json:"key"`
	Runs int    `json:"runs"`
	Mode string `json:"mode"` // of the newest run

	// Runs of which something would have been refused, with all that stands below but Uncertain and Raised.
	Broken int `json:"broken"`
	// Denied counts, by system call that a run made, the runs of which it would have been refused.
	Denied map[string]int `json:"denied,omitempty"`
	// Uncertain are calls that would have been refused towards other processes than the caller's own: a record does not
	// say towards whom they were.
	Uncertain map[string]int `json:"uncertain,omitempty"`
	// Killed are runs whose peak of memory is over a hard limit that nobody would have raised; Raised those over a predicted
	// one.
	Killed int `json:"killed"`
	Raised int `json:"raised"`
	// Forks are runs with more processes than their limit, Cut those that reached others without having a network, or others than a closed egress allows, Writes
	// those that wrote to a root filesystem that would have been read-only.
	Forks  int `json:"forks"`
	Cut    int `json:"cut"`
	Writes int `json:"writes"`

	// Saved is how much less memory would have been promised, in GB·h; negative: more. Only runs with a limit before and
	// after count, which are Limited.
	Saved   float64 `json:"saved_gbh"`
	Limited int     `json:"limited"`
	// Calls is how many watched calls less would have been answered by a supervisor.
	Calls int64 `json:"calls"`
}

// Report is the outcome of a replay.
type Report struct {
	Runs      int        `json:"runs"`
	Since     time.Time  `json:"since,omitzero"`
	Workloads []Workload `json:"workloads"`
	// Unknown says what the records cannot tell, with how many runs it is about.
	Unknown []string `json:"unknown,omitempty"`
}

// Decide decides runs that began at or after since again. All of them teach the history.
func Decide(ctx context.Context, runs []Run, since time.Time, h History, s Settings) (Report, error) {
	runs = slices.Clone(runs)
	slices.SortStableFunc(runs, func(a, b Run) int { return a.Seen.Started.Compare(b.Seen.Started) })
	ended := slices.Clone(runs)
	slices.SortStableFunc(ended, func(a, b Run) int { return a.Seen.Ended.Compare(b.Seen.Ended) })
	r := Report{Since: since, Workloads: []Workload{}}
	t := tally{by: make(map[string]*Workload)}
	next := 0
	for _, run := range runs {
		for ; next < len(ended) && !ended[next].Seen.Ended.After(run.Seen.Started); next++ {
			if err := h.Record(ctx, ended[next].Seen); err != nil {
				return r, fmt.Errorf("replay of %s: %w", ended[next].Seen.ID, err)
			}
		}
		if run.Seen.Started.Before(since) || len(run.Seen.Keys) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if run.Decided == nil {
			t.undecided++
			continue
		}
		d, err := s.decide(run, h.Predict(run.Seen.Query()))
		if err != nil {
			t.failed = append(t.failed, fmt.Sprintf("%s: %v", run.Seen.ID, err))
			continue
		}
		r.Runs++
		t.add(run, d)
	}
	for _, w := range t.by {
		r.Workloads = append(r.Workloads, *w)
	}
	slices.SortFunc(r.Workloads, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(b.Broken, a.Broken), cmp.Compare(b.Runs, a.Runs), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	r.Unknown = t.unknown()
	return r, nil
}

// decide decides one run again.
func (s Settings) decide(run Run, p workload.Prediction) (api.Decision, error) {
	req := request(run.Decided, s.Unified)
	scan := scanOf(run.Decided.Scan)
	j := s.Judge(foresight.Known{
		Request: &req, Prediction: p, Scan: scan, Load: run.Decided.Load, Standing: run.Decided.Standing, Past: run.Decided.Findings,
	})
	return admit.Decide(admit.Input{
		Request: req, Site: s.Site, Privileged: s.Privileged, Unified: s.Unified, Availability: api.ByDaemon,
		Prediction: p, Predicted: j.Claims, Scan: scan, Risk: j.Risk, Load: run.Decided.Load, Standing: run.Decided.Standing,
		Past: run.Decided.Findings, Notes: j.Notes, Now: run.Seen.Started,
	})
}
