package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/forefend/doctor"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// says is a daemon that answers what a test wants.
type says struct {
	fakeDaemon
	status  api.Status
	list    api.ListResponse
	events  api.EventsResponse
	history api.HistoryResponse
	err     error
}

func (s *says) Status(context.Context) (api.Status, error)     { return s.status, s.err }
func (s *says) List(context.Context) (api.ListResponse, error) { return s.list, s.err }
func (s *says) Events(context.Context, api.EventsRequest) (api.EventsResponse, error) {
	return s.events, s.err
}
func (s *says) History(context.Context, api.HistoryRequest) (api.HistoryResponse, error) {
	return s.history, s.err
}

// Whatever the daemon is short of, doctor says what that costs and what to do.
func TestDoctorExplainsTheDaemon(t *testing.T) {
	well := api.Status{Version: version, API: api.Version, Started: clock.Add(-time.Hour)}
	change := func(f func(*api.Status)) *says {
		s := well
		f(&s)
		return &says{status: s}
	}
	for name, c := range map[string]struct {
		daemon *says
		want   []string // feature, state, and a part of what was found
	}{
		"in order":        {&says{status: well}, []string{"daemon|ok|pid 0"}},
		"another version": {change(func(s *api.Status) { s.Version = "v0" }), []string{"daemon|degraded|v0"}},
		"another API":     {change(func(s *api.Status) { s.API++ }), []string{"daemon|degraded|"}},
		"unprotected": {change(func(s *api.Status) {
			s.Degraded = []string{"no cgroup of its own: x", "no raised priority: x", "no protection from the OOM killer: x", "no metrics: x",
				"7 decisions or events were not journaled: x", "something new"}
		}), []string{"daemon|ok|", "daemon|degraded|no cgroup", "daemon|degraded|no raised", "daemon|degraded|no protection", "daemon|degraded|no metrics",
			"daemon|degraded|7 decisions", "daemon|degraded|something new"}},
		"damaged store": {change(func(s *api.Status) { s.SetAside = []string{"record 7"} }), []string{"daemon|ok|", "history|degraded|record 7"}},
		"clock set back": {change(func(s *api.Status) { s.Started = clock.Add(2 * time.Hour) }),
			[]string{"daemon|ok|", "clock|degraded|the daemon started 2h0m0s in the future"}},
		"event of the future": {&says{status: well, events: api.EventsResponse{Events: []api.Event{{Time: clock.Add(time.Hour)}}}},
			[]string{"daemon|ok|", "clock|degraded|1h0m0s in the future"}},
		"decided alone": {&says{status: well, list: api.ListResponse{Containers: []api.Container{{By: api.ByLastKnown}, {By: api.ByDaemon}, {By: api.ByNobody}}}},
			[]string{"daemon|ok|", "decisions|degraded|2 running containers"}},
		"sealed": {&says{status: well, history: api.HistoryResponse{Workloads: []api.Workload{{Sealed: true, Runs: 30}, {Runs: 3}}}},
			[]string{"daemon|ok|", "sealing|ok|1 of 2 workloads"}},
		"never sealed": {&says{status: well, history: api.HistoryResponse{Workloads: []api.Workload{{Name: "sh -- x", Runs: 20}}}},
			[]string{"daemon|ok|", "sealing|degraded|sh -- x"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &app{stdout: io.Discard, stderr: io.Discard, now: func() time.Time { return clock }}
			check(t, append(a.aboutStatus(c.daemon.status), a.askMore(t.Context(), c.daemon)...), c.want)
		})
	}
	a := &app{stdout: io.Discard, stderr: io.Discard, now: func() time.Time { return clock }}
	if rows := a.askMore(t.Context(), &says{err: errors.New("busy")}); len(rows) > 0 {
		t.Errorf("a daemon that does not answer: %+v", rows)
	}
}

func check(t *testing.T, rows []doctor.Row, want []string) {
	t.Helper()
	var got []string
	for _, r := range rows {
		got = append(got, r.Feature+"|"+string(r.State)+"|"+r.Found)
		if r.State != doctor.OK && (r.Cost == "" || r.Fix == "") {
			t.Errorf("%+v does not say what it costs, or what to do", r)
		}
	}
	if !slices.EqualFunc(got, want, func(g, w string) bool {
		i := strings.LastIndex(w, "|") + 1
		return strings.HasPrefix(g, w[:i]) && strings.Contains(g[i:], w[i:])
	}) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A daemon that is there and does not answer is worse than none.
func TestDoctorWithAnUnreachableDaemon(t *testing.T) {
	_, config := startBroken(t)
	a := &app{stdout: io.Discard, stderr: io.Discard, now: func() time.Time { return clock }, configPath: config}
	rows, status := a.daemonRows(t.Context())
	check(t, rows, []string{"daemon|missing|"})
	if status != nil {
		t.Errorf("%+v", status)
	}
}
