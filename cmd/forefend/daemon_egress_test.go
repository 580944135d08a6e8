package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/pdp/audit"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

const egressRules = `
[[rule]]
name = "web"
when = 'workload == "web" && image == "nginx:1" && risk == 7'
tunnel = { encryption = "strong" }
[[rule]]
name = "busy"
when = 'host == "busy" && load > 50'
tunnel = { encryption = "none" }
[[rule]]
name = "labelled"
when = 'host == "label" && data == "confidential"'
tunnel = { encryption = "strong" }
`

// servedEgress serves the rules of a directory to a client, as the daemon does.
func servedEgress(t *testing.T, dir string) (*egress, *api.Client) {
	t.Helper()
	web := workload.ID{Namespace: "default", Container: "c1"}
	f := rules.NewFollower(dir, pdp.Options{Default: flow.Profile{Deny: true}}, func(rules.Reload) {})
	e := &egress{
		decider: here{f.Current, func(context.Context) { f.Look() }}, // run looks once: nobody follows here
		audit:   audit.New(),
		grace:   time.Minute,
		risks:   func() <-chan struct{} { return nil },
		load:    func() int { return 60 },
		about: func(id workload.ID) (orchestrator.Subject, bool) {
			return orchestrator.Subject{Workload: "web", Image: "nginx:1", Risk: 7, Label: "confidential"}, id == web
		},
	}
	return e, dialServed(t, func(server *ttrpc.Server) { api.RegisterDecisions(server, e) })
}

// TestEgressDecides: whose request it is the daemon knows itself, whatever the agent says.
func TestEgressDecides(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(egressRules), 0o600); err != nil {
		t.Fatal(err)
	}
	_, c := servedEgress(t, dir)
	lies := flow.Context{Namespace: "default", Container: "c1", Workload: "x", Image: "x", Risk: 0}
	d, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: lies})
	if err != nil || d.Profile.Encryption != flow.Strong || d.Epoch == 0 || d.Valid == 0 || d.Valid > riskHolds {
		t.Errorf("%+v, %v", d, err)
	}
	version := rules.Digest(map[string][]byte{"a.toml": []byte(egressRules)})
	if book, err := c.Audit(t.Context()); d.RuleVersion != version || err != nil || len(book.Classes) != 1 || book.Classes[0].RuleVersion != version {
		t.Errorf("the rules are %s: decided by %q, %+v, %v", version, d.RuleVersion, book, err)
	}
	lies.Host = "busy"
	if d, err = c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: lies}); err != nil || !strings.Contains(fmt.Sprint(d.Matches), "busy") {
		t.Errorf("%+v, %v", d, err)
	}
	lies.Host, lies.Label = "label", "public"
	if d, err = c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: lies}); err != nil || !strings.Contains(fmt.Sprint(d.Matches), "labelled") {
		t.Errorf("%+v, %v", d, err)
	}
	lies.Container = "unknown"
	if d, err = c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: lies}); err != nil || !d.Profile.Deny {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err = c.Decide(t.Context(), api.DecideRequest{Version: flow.Version + 1}); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

// TestEgressDecidesMany: many requests are answered in their order, what is the same once, and what cannot be is left out.
func TestEgressDecidesMany(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(egressRules), 0o600); err != nil {
		t.Fatal(err)
	}
	_, c := servedEgress(t, dir)
	of := func(host string) flow.Context { return flow.Context{Namespace: "default", Container: "c1", Host: host} }
	var hosts []flow.Context
	for i := range api.MaxDecisions {
		hosts = append(hosts, of([]string{"busy", "label", "else"}[i%3]))
	}
	got, err := c.DecideMany(t.Context(), api.DecideManyRequest{Version: flow.Version, Many: flow.ManyOf(hosts)})
	if err != nil || len(got.Answers.Which) != len(hosts) || len(got.Answers.Decisions) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, h := range hosts {
		d := got.Answers.Of(i)
		alone, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: h})
		if d.Valid, alone.Valid = 0, 0; err != nil || !reflect.DeepEqual(d, &alone) {
			t.Fatalf("%s: %+v, alone %+v, %v", h.Host, d, alone, err)
		}
	}
	if got, err = c.DecideMany(t.Context(), api.DecideManyRequest{Version: flow.Version + 1, Many: flow.ManyOf(hosts)}); err != nil || got.Answers.Of(0) != nil {
		t.Errorf("another version: %+v, %v", got, err)
	}
	for _, n := range []int{0, api.MaxDecisions + 1} {
		if _, err := c.DecideMany(t.Context(), api.DecideManyRequest{Many: flow.Many{Count: n}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d: %v", n, err)
		}
	}
	older := func(version int, host string) api.DecideRequest {
		return api.DecideRequest{Version: version, Context: of(host)}
	}
	got, err = c.DecideMany(t.Context(), api.DecideManyRequest{Version: flow.Version, Requests: []api.DecideRequest{
		older(flow.Version, "busy"), older(flow.Version+1, "busy"), older(flow.Version, "label"),
	}})
	if err != nil || len(got.Decisions) != 3 || got.Decisions[1] != nil || !strings.Contains(fmt.Sprint(got.Decisions[0].Matches), "busy") ||
		strings.Contains(fmt.Sprint(got.Decisions[2].Matches), "busy") {
		t.Errorf("of a shim of an older release: %+v, %v", got, err)
	}
	if _, err := c.DecideMany(t.Context(), api.DecideManyRequest{Requests: make([]api.DecideRequest, api.MaxDecisions+1)}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestEgressAmong: where it is not known which of a pod's containers asks, the strictest of their answers holds.
func TestEgressAmong(t *testing.T) {
	dir := t.TempDir()
	rules := "[[rule]]\nname = \"web\"\nwhen = 'image == \"nginx:1\"'\ntunnel = { encryption = \"none\" }\n" +
		"[[rule]]\nname = \"batch\"\nwhen = 'image == \"batch:1\"'\ntunnel = { encryption = \"strong\" }\n"
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	e, c := servedEgress(t, dir)
	web := e.about
	e.about = func(id workload.ID) (orchestrator.Subject, bool) {
		if id.Container == "c2" {
			return orchestrator.Subject{Workload: "batch", Image: "batch:1"}, true
		}
		return web(id)
	}
	ids := []workload.ID{{Namespace: "default", Container: "c1"}, {Namespace: "default", Container: "c2"}}
	for n, want := range map[int]flow.Encryption{1: flow.None, 2: flow.Strong} {
		d, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Among: ids[:n]})
		if err != nil || d.Profile.Deny || d.Profile.Encryption != want || len(d.Matches) != n {
			t.Errorf("one of %d: %+v, %v", n, d, err)
		}
	}
	ids = append(ids, workload.ID{Namespace: "default", Container: "gone"})
	if d, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Among: ids}); err != nil || !d.Profile.Deny {
		t.Errorf("one of them is not known: %+v, %v", d, err)
	}
	if _, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Among: make([]workload.ID, maxAmong+1)}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestEgressEpoch: who waits learns of new rules at once, and the next answers follow them.
func TestEgressEpoch(t *testing.T) {
	dir := t.TempDir()
	e, c := servedEgress(t, dir)
	now, err := c.Epoch(t.Context(), api.EpochRequest{})
	if err != nil || now.Epoch == 0 || now.Grace != time.Minute {
		t.Fatalf("%+v, %v", now, err)
	}
	if again, err := c.Epoch(t.Context(), api.EpochRequest{After: now.Epoch, Wait: time.Millisecond}); err != nil || again.Epoch != now.Epoch || len(again.Risks) > 0 {
		t.Errorf("%+v, %v", again, err)
	}
	type answer struct {
		api.EpochResponse
		at  time.Time
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		r, err := c.Epoch(t.Context(), api.EpochRequest{After: now.Epoch, Wait: 30 * time.Second})
		answers <- answer{r, time.Now(), err}
	}()
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(egressRules), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	e.decider.run(t.Context())
	got := <-answers
	if got.err != nil || got.Epoch <= now.Epoch {
		t.Fatalf("%+v", got)
	}
	t.Logf("rules read and told within %s", got.at.Sub(changed))
	r, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: flow.Context{Namespace: "default", Container: "c1"}})
	if err != nil || r.Epoch != got.Epoch || r.Profile.Deny {
		t.Errorf("%+v, %v", r, err)
	}
}

// Rules that were never in order let nothing through.
func TestEgressWithoutRules(t *testing.T) {
	_, c := servedEgress(t, filepath.Join(t.TempDir(), "none"))
	r, err := c.Decide(t.Context(), api.DecideRequest{Version: flow.Version, Context: flow.Context{Namespace: "default", Container: "c1"}})
	if err != nil || !r.Profile.Deny || !strings.Contains(r.Reason, "not in order") {
		t.Errorf("%+v, %v", r, err)
	}
	e := ruleEvent(rules.Reload{Path: "/r", Err: os.ErrNotExist})
	if e.Kind != api.EventRules || !strings.Contains(e.Message, "not in order") || e.Fields["error"] == "" {
		t.Errorf("%+v", e)
	}
}

// TestEgressRisk: a shim that follows risks is told of another one at once, and what depends on it holds until then.
func TestEgressRisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(egressRules), 0o600); err != nil {
		t.Fatal(err)
	}
	e, c := servedEgress(t, dir)
	changed := make(chan struct{})
	var risk atomic.Int64
	risk.Store(7)
	e.risks = func() <-chan struct{} { return changed }
	e.about = func(workload.ID) (orchestrator.Subject, bool) {
		return orchestrator.Subject{Workload: "web", Image: "nginx:1", Risk: int(risk.Load())}, true
	}
	now, err := c.Epoch(t.Context(), api.EpochRequest{Risks: map[string]int{"default/c1": -1}})
	if err != nil || now.Risks["default/c1"] != 7 {
		t.Fatalf("%+v, %v", now, err)
	}
	ask := api.DecideRequest{Version: flow.Version, Context: flow.Context{Namespace: "default", Container: "c1"}, Told: true}
	if d, err := c.Decide(t.Context(), ask); err != nil || d.Valid != 0 || !slices.Contains(d.Depends, flow.FieldRisk) {
		t.Errorf("%+v, %v", d, err)
	}
	told := make(chan api.EpochResponse, 1)
	go func() {
		r, _ := c.Epoch(t.Context(), api.EpochRequest{After: now.Epoch, Wait: 30 * time.Second, Risks: now.Risks})
		told <- r
	}()
	risk.Store(80)
	close(changed)
	if r := <-told; r.Epoch != now.Epoch || r.Risks["default/c1"] != 80 {
		t.Errorf("%+v", r)
	}
}
