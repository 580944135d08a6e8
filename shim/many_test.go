package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// manyPoint is a daemon that denies what goes to "denied", has nothing to say of "unknown", and keeps what it was asked.
type manyPoint struct {
	decisionPoint
	asked api.DecideManyRequest
	short bool // it leaves an answer out
}

func (d *manyPoint) DecideMany(_ context.Context, r api.DecideManyRequest) (out api.DecideManyResponse, err error) {
	d.asked = r
	all, err := r.Many.Contexts(api.MaxDecisions)
	if err != nil {
		return out, err
	}
	for _, c := range all {
		answer := flow.Decision{Reason: c.Host, Profile: flow.Profile{Deny: c.Host == "denied", Dedicated: c.Host == "own"}}
		if c.Host == "unknown" {
			out.Answers.Add(nil)
		} else {
			out.Answers.Add(&answer)
		}
	}
	if d.short {
		out.Answers.Which = out.Answers.Which[1:]
	}
	return out, nil
}

// TestDecideMany: whose many requests are is said here, once for all, whatever the agent says of each; what they may take is what was decided
// of each.
func TestDecideMany(t *testing.T) {
	d := &manyPoint{decisionPoint: decisionPoint{changed: make(chan struct{})}}
	socket := filepath.Join(t.TempDir(), "s")
	defer decisionsOf(t, d, socket)()
	s := &Service{cfg: Config{Socket: socket, DecideWithin: time.Minute}}
	s.link, s.epochs = newLink(s.cfg), newEpochs(s)
	defer s.link.close()
	web := &container{id: workload.ID{Namespace: "k8s.io", Container: "web"}}
	batch := &container{id: workload.ID{Namespace: "k8s.io", Container: "batch"}}
	ask := func(a *seat, all []flow.Context) (got flow.Answers, err error) {
		question, err := json.Marshal(flow.ManyOf(all))
		if err != nil {
			t.Fatal(err)
		}
		body, err := a.answer(t.Context(), askMany, question)
		if err == nil {
			err = json.Unmarshal(body, &got)
		}
		return got, err
	}
	all := []flow.Context{
		{Host: "a", User: "alice", Container: "batch", Workload: "x", Image: "x", Risk: 3, Namespace: "x"},
		{Host: "denied", User: "bob"},
		{Host: "own", User: "carol", Container: "web", Credential: "secret"},
		{Host: "unknown", User: "dan", Risk: 9},
	}

	a := &seat{s: s, c: web}
	got, err := ask(a, all)
	if err != nil || len(got.Which) != 4 || got.Of(0).Reason != "a" || !got.Of(1).Profile.Deny || got.Of(2).Reason != "own" || got.Of(3) != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	seen, err := d.asked.Many.Contexts(4)
	if err != nil || !d.asked.Proves || len(d.asked.Among) != 0 {
		t.Fatalf("%+v, %v", d.asked, err)
	}
	for i, c := range seen {
		want := flow.Context{Version: 0, Host: all[i].Host, User: all[i].User, Credential: all[i].Credential, Namespace: "k8s.io", Container: "web",
			Workload: web.base().Workload}
		if fmt.Sprintf("%#v", c) != fmt.Sprintf("%#v", want) || c.Credential != want.Credential {
			t.Errorf("%d: %+v, want %+v", i, c, want)
		}
	}
	own := flow.Profile{Dedicated: true}
	if !a.granted.has(grantOf("web", "alice", flow.Profile{})) || !a.granted.has(grantOf("web", "carol", own)) || a.granted.has(grantOf("web", "alice", own)) {
		t.Errorf("granted: %+v", a.granted.young)
	}

	pod := &seat{s: s, c: web, pod: true, members: []*container{web, batch}}
	if got, err = ask(pod, []flow.Context{{Host: "a", Container: "stranger"}}); err != nil || got.Of(0).Valid != unattributedHolds || len(d.asked.Among) != 2 {
		t.Errorf("%+v, %v, among %v", got, err, d.asked.Among)
	}
	if _, err = ask(pod, []flow.Context{{Host: "a", Container: "batch"}}); err != nil || d.asked.Many.Base.Container != "batch" || len(d.asked.Among) != 0 {
		t.Errorf("%+v, %v", d.asked, err)
	}

	if _, err = ask(a, make([]flow.Context, api.MaxDecisions+1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many: %v", err)
	}
	if _, err = a.answer(t.Context(), askMany, []byte("[")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no question: %v", err)
	}
	d.short = true
	if got, err = ask(a, all); err == nil {
		t.Errorf("an answer is missing: %+v", got)
	}
}
