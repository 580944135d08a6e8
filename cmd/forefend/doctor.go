package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/doctor"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
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
		Long: "Tries kernel features, looks for tools, checks the configuration, asks the daemon and looks at the\n" +
			"disk. What is not in order comes with what that costs and what to do about it. Exits with 1 when\n" +
			"something that is needed is missing; what is merely degraded is no failure.",
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
	progress.Step("looking at the shim")
	d.Rows = append(d.Rows, doctor.Shim(ctx, version), doctor.Agent(ctx, version), a.configRow())
	progress.Step("asking the daemon")
	rows, status := a.daemonRows(ctx)
	d.Rows, d.Daemon = append(d.Rows, rows...), status
	if c, err := a.config(); err == nil {
		progress.Step("looking at uplinks")
		d.Rows = append(d.Rows, a.uplinkRows(ctx, c)...)
		progress.Step("looking at the directories")
		site := doctor.Site{Root: c.Root, State: c.State, Store: c.StoreDir(), Spool: c.SpoolDir(),
			Containers: record.Dir(c.ContainersDir()), Daemon: status != nil}
		d.Rows = append(d.Rows, site.Rows(a.now())...)
	}
	for _, r := range d.Rows {
		d.OK = d.OK && r.State != doctor.Missing
	}
	return d
}

// unconfigured is what a configuration that cannot be read costs.
const unconfigured = "no container can be created, and a daemon that ends does not start again"

func (a *app) configRow() doctor.Row {
	c, err := a.config()
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return doctor.Row{Feature: "config", State: doctor.Missing, Found: a.configFile() + " has " + plural(len(problems), "problem"),
			Cost: unconfigured, Fix: "forefend policy check " + a.configFile()}
	}
	switch {
	case err != nil:
		return doctor.Row{Feature: "config", State: doctor.Missing, Found: err.Error(), Cost: unconfigured,
			Fix: "write that file, or name another one with " + config.EnvPath}
	case c.Path == "":
		return doctor.Row{Feature: "config", State: doctor.OK, Found: "defaults, there is no " + a.configFile()}
	}
	return doctor.Row{Feature: "config", State: doctor.OK, Found: c.Path}
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
		if r.State != doctor.OK && r.Cost != "" {
			page.Item(foundAt, "costs", foundAt+6, r.Cost)
		}
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
