package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/doctor"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// diagnosis is what `forefend doctor --json` prints.
type diagnosis struct {
	OK     bool         `json:"ok"` // nothing that is needed is missing
	Rows   []doctor.Row `json:"rows"`
	Daemon *api.Status  `json:"daemon,omitempty"` // absent when none runs
}

func newDoctorCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this node offers Forefend, what is degraded, why, and what to do",
		Long: "Tries kernel features, looks for tools, checks the configuration and asks the daemon. Exits with 1\n" +
			"when something that is needed is missing; what is merely degraded is no failure.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			progress := output.NewProgress(a.stderr)
			d := a.diagnose(cmd.Context(), progress)
			progress.Done()
			var err error
			if asJSON {
				err = output.JSON(a.stdout, d)
			} else {
				err = a.printDiagnosis(d)
			}
			if err == nil && !d.OK {
				err = errQuiet
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) diagnose(ctx context.Context, progress *output.Progress) diagnosis {
	d := diagnosis{OK: true}
	for _, p := range doctor.Probes() {
		progress.Step("trying " + p.Name)
		d.Rows = append(d.Rows, p.Look(ctx)...)
	}
	d.Rows = append(d.Rows, a.configRow())
	progress.Step("asking the daemon")
	rows, status := a.daemonRows(ctx)
	d.Rows, d.Daemon = append(d.Rows, rows...), status
	for _, r := range d.Rows {
		d.OK = d.OK && r.State != doctor.Missing
	}
	return d
}

func (a *app) configRow() doctor.Row {
	c, err := a.config()
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return doctor.Row{Feature: "config", State: doctor.Missing, Found: a.configFile() + " has " + plural(len(problems), "problem"),
			Fix: "forefend policy check " + a.configFile()}
	}
	switch {
	case err != nil:
		return doctor.Row{Feature: "config", State: doctor.Missing, Found: err.Error()}
	case c.Path == "":
		return doctor.Row{Feature: "config", State: doctor.OK, Found: "defaults, there is no " + a.configFile()}
	}
	return doctor.Row{Feature: "config", State: doctor.OK, Found: c.Path}
}

func (a *app) daemonRows(ctx context.Context) ([]doctor.Row, *api.Status) {
	var s api.Status
	err := a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) (err error) {
		s, err = ask(ctx, daemon.Status)
		return err
	})
	if errors.Is(err, errNoDaemon) {
		return []doctor.Row{{Feature: "daemon", State: doctor.OK, Found: "not running; it starts with the first container"}}, nil
	}
	if err != nil {
		return []doctor.Row{{Feature: "daemon", State: doctor.Missing, Found: strings.ReplaceAll(err.Error(), "\n", "; ")}}, nil
	}
	row := doctor.Row{Feature: "daemon", State: doctor.OK, Found: fmt.Sprintf("%s, pid %d, up %s, %s resident, %s, %s of %s, loaded in %s",
		s.Version, s.PID, output.Age(a.now().Sub(s.Started)), output.Bytes(s.RSS), plural(s.Containers, "container"),
		plural(s.Runs, "run"), plural(s.Workloads, "workload"), output.Took(s.Load))}
	if s.Version != version {
		row.State, row.Fix = doctor.Degraded, "this binary is "+version+": restart the daemon (containers keep running)"
	}
	rows := []doctor.Row{row}
	for _, why := range s.Degraded {
		rows = append(rows, doctor.Row{Feature: "daemon", State: doctor.Degraded, Found: why})
	}
	for _, what := range s.SetAside {
		rows = append(rows, doctor.Row{Feature: "history", State: doctor.Degraded, Found: "damaged record set aside: " + what})
	}
	return rows, &s
}

// Where the columns of doctor begin.
const (
	stateAt = 23
	foundAt = stateAt + len("degraded") + 2
)

func (a *app) printDiagnosis(d diagnosis) error {
	page := output.NewPage(a.stdout)
	page.Line(0, fmt.Sprintf("%-*s%-*s%s", stateAt, "FEATURE", foundAt-stateAt, "STATE", "FOUND"))
	missing, degraded := 0, 0
	for _, r := range d.Rows {
		page.Item(0, fmt.Sprintf("%-*s%s", stateAt, r.Feature, r.State), foundAt, r.Found)
		if r.State != doctor.OK && r.Fix != "" {
			page.Item(foundAt, "->", foundAt+3, r.Fix)
		}
		switch r.State {
		case doctor.Missing:
			missing++
		case doctor.Degraded:
			degraded++
		}
	}
	page.Line(0, "")
	page.Line(0, fmt.Sprintf("%d missing, %d degraded, %d in order", missing, degraded, len(d.Rows)-missing-degraded))
	return page.Err()
}
