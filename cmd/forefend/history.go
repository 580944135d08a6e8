package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

func newHistoryCommand(a *app) *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:   "history [WORKLOAD]",
		Short: "Show what was learned: workloads, and the runs of one",
		Long: "Lists the known workloads with what is predicted for their next run. WORKLOAD is part of a name or\n" +
			"the start of a key; when exactly one workload matches, its runs are listed too, newest first.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.HistoryRequest{Limit: limit}
			if len(args) == 1 {
				req.Workload = args[0]
			}
			if limit < 1 || limit > 10_000 {
				return usage(cmd, fmt.Errorf("--limit %d: not between 1 and 10000", limit))
			}
			return a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
				progress := output.NewProgress(a.stderr)
				progress.Step("reading the history")
				resp, err := ask(ctx, func(ctx context.Context) (api.HistoryResponse, error) { return daemon.History(ctx, req) })
				progress.Done()
				switch {
				case err != nil:
					return err
				case req.Workload != "" && len(resp.Workloads) == 0:
					return fmt.Errorf("no workload is called %q and no key starts so: %w", req.Workload, errdefs.ErrNotFound)
				case asJSON:
					return output.JSON(a.stdout, withoutNil(resp))
				}
				return a.printHistory(resp)
			})
		},
	}
	cmd.AddCommand(newExportPriorsCommand(a))
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most `N` workloads and runs")
	return cmd
}

// withoutNil lets programs rely on an array being there.
func withoutNil(r api.HistoryResponse) api.HistoryResponse {
	if r.Workloads == nil {
		r.Workloads = []api.Workload{}
	}
	return r
}

func (a *app) printHistory(resp api.HistoryResponse) error {
	page := output.NewPage(a.stdout)
	if len(resp.Workloads) == 0 {
		page.Line(0, "Nothing has run yet.")
	} else {
		page.Table(a.workloadTable(resp.Workloads))
	}
	if len(resp.Runs) > 0 {
		page.Heading("Runs, newest first")
		page.Table(a.runTable(resp.Runs))
	}
	if len(resp.SetAside) > 0 {
		page.Heading("Damaged records, set aside")
		for _, s := range resp.SetAside {
			page.Item(2, "", 2, s)
		}
	}
	return page.Err()
}

func (a *app) workloadTable(workloads []api.Workload) *output.Table {
	t := output.NewTable(
		output.Column{Name: "WORKLOAD", Min: 16}, output.Column{Name: "LEVEL", Min: 10}, output.Column{Name: "KEY"},
		output.Column{Name: "RUNS", Right: true}, output.Column{Name: "LAST", Right: true},
		output.Column{Name: "MEMORY", Note: "predicted", Right: true}, output.Column{Name: "CPUS", Right: true},
		output.Column{Name: "PIDS", Right: true}, output.Column{Name: "UNSEEN", Right: true}, output.Column{Name: "SEALED"})
	for _, w := range workloads {
		p := w.Prediction
		t.Row(w.Name, w.Key.Level.String(), output.Truncate(w.Key.Value, 9), fmt.Sprint(w.Runs), output.Age(a.now().Sub(w.Last)),
			output.Bytes(int64(p.Memory.Value)), output.CPUs(p.CPU.Value), output.Count(int64(math.Ceil(p.PIDs.Value))),
			output.Percent(p.Unseen), yesNo(w.Sealed))
	}
	return t
}

func (a *app) runTable(runs []workload.Observation) *output.Table {
	t := output.NewTable(
		output.Column{Name: "STARTED"}, output.Column{Name: "CONTAINER", Min: 8}, output.Column{Name: "LASTED", Right: true},
		output.Column{Name: "EXIT", Right: true}, output.Column{Name: "MEMORY", Note: "peak", Right: true},
		output.Column{Name: "CPUS", Note: "peak", Right: true}, output.Column{Name: "PIDS", Note: "peak", Right: true},
		output.Column{Name: "CALLS", Note: "watched", Right: true}, output.Column{Name: "DENIED", Right: true},
		output.Column{Name: "OOM", Right: true})
	for _, r := range runs {
		t.Row(output.Time(r.Started), r.ID.String(), a.lasted(r), exit(r), output.Bytes(r.Usage.MemoryPeak), output.CPUs(r.Usage.CPUPeak),
			output.Count(r.Usage.PIDsPeak), calls(r), output.Count(int64(len(r.Denied))), output.Count(r.Usage.OOMKills))
	}
	return t
}

func (a *app) lasted(r workload.Observation) string {
	end := r.Ended
	if end.IsZero() {
		if r.Final {
			return "-"
		}
		end = a.now()
	}
	if d := end.Sub(r.Started); d < time.Second {
		return output.Took(d)
	} else {
		return output.Age(d)
	}
}

func exit(r workload.Observation) string {
	switch {
	case !r.Final:
		return "running"
	case r.Exit.Lost:
		return "lost"
	}
	return fmt.Sprint(r.Exit.Status)
}

// calls counts the different watched calls of a run; a run that nobody watched says so.
func calls(r workload.Observation) string {
	if !r.Watched {
		return "unwatched"
	}
	return fmt.Sprint(len(r.Syscalls))
}
