package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/forefend/replay"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

func newReplayCommand(a *app) *cobra.Command {
	var path, since string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay --config NEW.toml",
		Short: "Show what other settings would have done to recorded runs",
		Long: "Decides the runs in the history again, under the settings of NEW.toml, by the daemon's own code,\n" +
			"each from what had been learned before it. Shows for each workload what would have been refused,\n" +
			"killed or saved: before a site switches to enforce. Nothing is changed. The history is that of the\n" +
			"running daemon (FOREFEND_CONFIG, else " + config.DefaultPath + ").",
		Example: "  forefend replay --config /etc/forefend/new.toml --since 7d",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var from time.Time
			if since != "" {
				d, err := period(since)
				if err != nil {
					return usage(cmd, err)
				}
				from = a.now().Add(-d)
			}
			if path == "" {
				return usage(cmd, errors.New("--config names the settings to try"))
			}
			settings, err := config.Load(path)
			if err != nil {
				return err
			}
			return a.replay(cmd.Context(), settings, from, asJSON)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the settings to try, a config `file`")
	cmd.Flags().StringVar(&since, "since", "", "only runs begun in this `period`, such as 7d or 36h; earlier ones still teach")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// period reads a Go duration, or a number of days.
func period(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--since %q: a period such as 7d or 36h", s)
	}
	return d, nil
}

// replayLimit bounds the workloads, and the runs of each, that a replay looks at.
const replayLimit = 10_000

func (a *app) replay(ctx context.Context, settings *config.Config, since time.Time, asJSON bool) (err error) {
	progress := output.NewProgress(a.stderr)
	defer progress.Done()
	var runs []replay.Run
	err = a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) (err error) {
		progress.Step("reading the history")
		runs, err = recorded(ctx, daemon)
		return err
	})
	if err != nil {
		return err
	}
	progress.Step("deciding again")
	dir, err := os.MkdirTemp("", "forefend-replay-")
	if err != nil {
		return fmt.Errorf("a place for the replayed history: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	report, err := decideAgain(ctx, filepath.Join(dir, "store"), settings, runs, since)
	progress.Done()
	switch {
	case err != nil:
		return err
	case asJSON:
		return output.JSON(a.stdout, report)
	}
	return a.printReplay(report)
}

// decideAgain replays runs over a history of its own, in dir.
func decideAgain(ctx context.Context, dir string, settings *config.Config, runs []replay.Run, since time.Time) (report replay.Report, err error) {
	s, err := store.Open(ctx, dir, store.Options{RunsPerSubject: settings.History.RunsPerWorkload, MaxAge: settings.History.MaxAge, MaxBytes: settings.History.MaxBytes})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	priors, err := readPriors(settings.Prediction.Priors)
	if err != nil {
		return report, err
	}
	book, err := history.Open(ctx, s, history.Options{
		Priors: priors, Coverage: settings.Prediction.Coverage, Seal: settings.Prediction.Seal, MinRuns: settings.Prediction.MinRuns,
		RunsPerWorkload: settings.History.RunsPerWorkload,
	})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, book.Close()) }()
	return replay.Decide(ctx, runs, since, book, replay.Settings{
		Site: settings.Site, Privileged: settings.Privileged, Unified: cgroup.CurrentMode() == cgroup.V2, Judge: judge(settings),
	})
}

// recorded fetches every run that has ended, with the decision it ran under.
func recorded(ctx context.Context, daemon api.Orchestrator) (runs []replay.Run, err error) {
	all, err := ask(ctx, func(ctx context.Context) (api.HistoryResponse, error) {
		return daemon.History(ctx, api.HistoryRequest{Limit: replayLimit})
	})
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, w := range all.Workloads {
		one, err := ask(ctx, func(ctx context.Context) (api.HistoryResponse, error) {
			return daemon.History(ctx, api.HistoryRequest{Workload: w.Key.Value, Limit: replayLimit})
		})
		if err != nil {
			return nil, err
		}
		for _, o := range one.Runs {
			if !o.Final || seen[o.Run] {
				continue
			}
			seen[o.Run] = true
			d, err := decisionOf(ctx, daemon, o)
			if err != nil {
				return nil, err
			}
			runs = append(runs, replay.Run{Seen: o, Decided: d})
		}
	}
	return runs, nil
}

// decisionOf is the decision under which a run ran, nil when only a later one of that name is known, or none.
func decisionOf(ctx context.Context, daemon api.Orchestrator, o workload.Observation) (*api.Decision, error) {
	d, err := ask(ctx, func(ctx context.Context) (api.Decision, error) {
		return daemon.Explain(ctx, api.ExplainRequest{ID: o.ID})
	})
	switch {
	case errdefs.IsNotFound(err), err == nil && d.Facts.Run != o.Run:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &d, nil
}

func (a *app) printReplay(r replay.Report) error {
	page := output.NewPage(a.stdout)
	if len(r.Workloads) == 0 {
		page.Line(0, "No recorded run can be decided again.")
	} else {
		page.Table(replayTable(r.Workloads))
		for _, w := range r.Workloads {
			printRefused(page, w)
		}
	}
	if len(r.Unknown) > 0 {
		page.Heading("What the records cannot tell")
		for _, s := range r.Unknown {
			page.Item(2, "- ", 4, s)
		}
	}
	return page.Err()
}

func replayTable(workloads []replay.Workload) *output.Table {
	t := output.NewTable(
		output.Column{Name: "WORKLOAD", Min: 16}, output.Column{Name: "MODE"}, output.Column{Name: "RUNS", Right: true},
		output.Column{Name: "BROKEN", Right: true}, output.Column{Name: "DENIED", Note: "calls", Right: true},
		output.Column{Name: "KILLED", Right: true}, output.Column{Name: "RAISED", Right: true}, output.Column{Name: "FORKS", Right: true},
		output.Column{Name: "CUT", Right: true}, output.Column{Name: "SAVED", Note: "GB·h", Right: true}, output.Column{Name: "UNWATCHED", Note: "calls", Right: true})
	for _, w := range workloads {
		saved := "-"
		if w.Limited > 0 {
			saved = strconv.FormatFloat(math.Round(100*w.Saved)/100+0, 'f', 2, 64) // + 0: there is no saving of -0
		}
		t.Row(w.Name, w.Mode, fmt.Sprint(w.Runs), output.Count(int64(w.Broken)), output.Count(int64(len(w.Denied))), output.Count(int64(w.Killed)),
			output.Count(int64(w.Raised)), output.Count(int64(w.Forks)), output.Count(int64(w.Cut+w.Writes)), saved, output.Count(w.Calls))
	}
	return t
}

// printRefused says which calls would have been refused, and in how many runs.
func printRefused(page *output.Page, w replay.Workload) {
	if len(w.Denied)+len(w.Uncertain) == 0 {
		return
	}
	page.Heading(w.Name)
	list := func(lead string, calls map[string]int) {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(calls)) {
			words = append(words, fmt.Sprintf("%s (%d of %d runs)", name, calls[name], w.Runs))
		}
		if len(words) > 0 {
			page.Item(2, lead+" ", 4, strings.Join(words, ", "))
		}
	}
	list("denied:", w.Denied)
	list("denied towards others than its own processes:", w.Uncertain)
}
