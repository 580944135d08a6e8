package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"forefend.dev/forefend/cmd/forefend/doctor"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

const (
	// clockSlack is how far apart the clock and a recorded time may be before somebody must have set it back.
	clockSlack = time.Minute
	// unsealedRuns is after how many runs a workload that is still not sealed deserves a word.
	unsealedRuns = 20
)

func degraded(feature, found, cost, fix string) doctor.Row {
	return doctor.Row{Feature: feature, State: doctor.Degraded, Found: found, Cost: cost, Fix: fix}
}

// daemonRows asks the daemon. Its absence is in order: it starts with the first container.
func (a *app) daemonRows(ctx context.Context) ([]doctor.Row, *api.Status) {
	var s api.Status
	var rows []doctor.Row
	err := a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) (err error) {
		if s, err = ask(ctx, daemon.Status); err == nil {
			rows = a.askMore(ctx, daemon)
		}
		return err
	})
	if errors.Is(err, errNoDaemon) {
		return []doctor.Row{{Feature: "daemon", State: doctor.OK, Found: "not running; it starts with the first container"}}, nil
	}
	if err != nil {
		return []doctor.Row{{
			Feature: "daemon", State: doctor.Missing, Found: strings.ReplaceAll(err.Error(), "\n", "; "),
			Cost: "shims decide alone, from the last policy of a workload or the site's defaults",
			Fix:  "as root: forefend daemon --detach --takeover; its log is daemon.log in root",
		}}, nil
	}
	rows = append(a.aboutStatus(s), rows...)
	return append(rows, doctor.OpenFiles("/proc", s.PID)...), &s
}

func (a *app) aboutStatus(s api.Status) []doctor.Row {
	row := doctor.Row{Feature: "daemon", State: doctor.OK, Found: fmt.Sprintf("%s, pid %d, up %s, %s resident, %s, %s of %s, loaded in %s",
		s.Version, s.PID, output.Age(a.now().Sub(s.Started)), output.Bytes(s.RSS), plural(s.Containers, "container"),
		plural(s.Runs, "run"), plural(s.Workloads, "workload"), output.Took(s.Load))}
	const restart = "forefend daemon --detach --takeover, or restart the service; containers keep running"
	switch {
	case s.API != api.Version:
		row.State, row.Fix = doctor.Degraded, restart
		row.Cost = fmt.Sprintf("it speaks version %d of the interface, this binary %d: newer shims decide alone", s.API, api.Version)
	case s.Version != version:
		row.State, row.Fix = doctor.Degraded, restart
		row.Cost = "this binary is " + version + ": decisions are those of " + s.Version
	}
	rows := []doctor.Row{row}
	for _, why := range s.Degraded {
		rows = append(rows, explainDegraded(why))
	}
	for _, what := range s.SetAside {
		rows = append(rows, degraded("history", "damaged record set aside: "+what, "what it held is not part of the history",
			"look for a failing disk; to be told no more, empty set-aside in "+s.Root+"/store"))
	}
	if ahead := s.Started.Sub(a.now()); ahead > clockSlack {
		rows = append(rows, clockRow("the daemon started", ahead))
	}
	return rows
}

func clockRow(what string, ahead time.Duration) doctor.Row {
	return degraded("clock", fmt.Sprintf("%s %s in the future: the clock was set back", what, ahead.Round(time.Second)),
		"ages and the expiry of the history are wrong until that time has passed", "let chrony or systemd-timesyncd slew the clock instead of setting it")
}

// explained says what the daemon's own complaints cost and what to do. They are known by how they begin.
var explained = []struct{ begins, cost, fix string }{
	{"no cgroup of its own", "its memory and CPU time count as containerd's, and a stop of containerd may end it", "make /sys/fs/cgroup writable for it, or run it as a service"},
	{"no raised priority", "it may answer late while many containers start at once", "CAP_SYS_NICE for containerd, or the service (Nice=-10)"},
	{"no protection from the OOM killer", "it may be among the first to go when memory is short; shims then decide alone until it is back",
		"CAP_SYS_RESOURCE for containerd, or the service (OOMScoreAdjust=-900)"},
	{"no metrics", "nothing can be scraped", "free the address or name another one: [metrics] listen in config.toml; then restart the daemon"},
}

func explainDegraded(why string) doctor.Row {
	for _, e := range explained {
		if strings.HasPrefix(why, e.begins) {
			return degraded("daemon", why, e.cost, e.fix)
		}
	}
	if strings.Contains(why, "not journaled") {
		return degraded("daemon", why, "explain and events lack them after a restart", "look for a slow or full disk under root")
	}
	return degraded("daemon", why, "it works less well than it should", "see the daemon's log; a restart counts anew: forefend daemon --detach --takeover")
}

// askMore looks at what the daemon knows of containers, events and workloads. What it does not answer is left out: status
// has been, and says whether it is well.
func (a *app) askMore(ctx context.Context, daemon api.Orchestrator) (rows []doctor.Row) {
	if list, err := ask(ctx, daemon.List); err == nil {
		alone := 0
		for _, c := range list.Containers {
			if c.By != "" && c.By != api.ByDaemon {
				alone++
			}
		}
		if alone > 0 {
			rows = append(rows, degraded("decisions", plural(alone, "running container")+" decided without the daemon",
				"their policy is an older one, or the site's default, until they are started again",
				"forefend ps marks them with \"!\", forefend explain says why; start them again when it suits"))
		}
	}
	tail := api.EventsRequest{Tail: true, Limit: 1}
	if events, err := ask(ctx, func(ctx context.Context) (api.EventsResponse, error) { return daemon.Events(ctx, tail) }); err == nil {
		for _, e := range events.Events {
			if ahead := e.Time.Sub(a.now()); ahead > clockSlack {
				rows = append(rows, clockRow("the newest event is", ahead))
			}
		}
	}
	if history, err := ask(ctx, func(ctx context.Context) (api.HistoryResponse, error) {
		return daemon.History(ctx, api.HistoryRequest{})
	}); err == nil {
		rows = append(rows, sealing(history.Workloads)...)
	}
	return rows
}

// sealing looks at how many workloads are sealed, and for those that never come to it.
func sealing(workloads []api.Workload) []doctor.Row {
	if len(workloads) == 0 {
		return nil
	}
	sealed, never := 0, []string(nil)
	for _, w := range workloads {
		switch {
		case w.Sealed:
			sealed++
		case w.Runs >= unsealedRuns:
			never = append(never, w.Name)
		}
	}
	found := fmt.Sprintf("%d of %s sealed", sealed, plural(len(workloads), "workload"))
	if len(never) == 0 {
		return []doctor.Row{{Feature: "sealing", State: doctor.OK, Found: found}}
	}
	return []doctor.Row{degraded("sealing", fmt.Sprintf("%s; not after %d runs: %s", found, unsealedRuns, strings.Join(never[:min(len(never), 3)], ", ")),
		"calls that none of their runs made are watched or allowed, not surprises", "forefend history WORKLOAD; raise [prediction] seal if their runs truly differ")}
}
