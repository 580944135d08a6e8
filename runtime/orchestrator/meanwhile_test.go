package orchestrator

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// explained is what people are told of a container, and what the journal has of it last.
func (n *node) explained(t *testing.T, id workload.ID) (d, journaled api.Decision) {
	t.Helper()
	d, err := n.Explain(t.Context(), api.ExplainRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	if journaled, err = n.journal.Decision(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return d, journaled
}

// What a shim did not wait for is not taken for what is in force.
func TestAdmitThatNobodyWaitsFor(t *testing.T) {
	n := newNode(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	n.history.recommend = func(workload.Prediction, workload.Facts) []policy.Claim {
		cancel() // the daemon is slow
		return nil
	}
	if _, err := n.Admit(ctx, request(t, "web")); !errors.Is(err, context.Canceled) {
		t.Errorf("admitted: %v", err)
	}
	if d, err := n.Explain(t.Context(), api.ExplainRequest{ID: containerID("web")}); err == nil {
		t.Errorf("explained as %+v", d)
	}
	if kinds := n.journal.kinds(); slices.Contains(kinds, api.EventAdmitted) {
		t.Errorf("told %v", kinds)
	}
}

// A daemon whose answer came too late believes that it is in force until the shim tells what it has decided by itself.
func TestDecidedAloneMeanwhile(t *testing.T) {
	n := newNode(t, nil)
	alone := withoutCode(n.admit(t, "web"))
	alone.Availability, alone.Facts.Image = api.ByLastKnown, workload.Image{}
	alone.Effective = alone.Effective.Put(policy.Field{Key: policy.KeyPIDs, Value: 64, Origin: policy.Origin{Author: policy.Prediction, Source: "history"}})
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Changed: []api.Decision{alone}}); err != nil {
		t.Fatal(err)
	}
	d, journaled := n.explained(t, alone.Facts.ID)
	for what, d := range map[string]api.Decision{"explained": d, "journaled": journaled} {
		if pids, _ := d.Effective.Limit(policy.KeyPIDs); d.Availability != api.ByLastKnown || pids != 64 {
			t.Errorf("%s is a decision of %s, pids %d", what, d.Availability, pids)
		}
	}
	if d.Facts.Image.Digest == "" {
		t.Error("whose container it is is forgotten")
	}
	n.unaudited = append(n.unaudited, alone) // as a daemon that starts anew finds it
	reads := len(n.journal.events)
	n.audit(t.Context())
	if _, again := n.explained(t, alone.Facts.ID); again.Availability != api.ByLastKnown || len(n.journal.events) != reads {
		t.Errorf("%s is journaled after another start", again.Availability)
	}
}

// A change that a shim made after its request had been given up is in force. That is known with the same request once more, of which nothing
// comes, whether the daemon reads the container's record for it or has what it needs.
func TestChangeThatWasGivenUp(t *testing.T) {
	for what, reads := range map[string]bool{"its record is read": true, "the shim says so": false} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, ticking)
			f := n.shimOf(t, "web", true)
			n.set(t, f, "pids", "99")
			f.fail = errdefs.ErrUnavailable // by the time of its answer
			if _, err := n.Adjust(t.Context(), api.AdjustRequest{
				Version: api.Version, ID: f.r.ID, Set: map[string]string{"network": "off"}, Author: policy.Operator, Source: "test",
			}); !errdefs.IsUnavailable(err) {
				t.Fatal(err)
			}
			f.fail = nil
			if reads {
				for i := range n.adjusting {
					n.adjusting[i].last = nil
				}
			}
			if resp := n.set(t, f, "network", "off"); resp.Decision.Revision != 3 {
				t.Errorf("revision %d came of what was in force already", resp.Decision.Revision)
			}
			d, journaled := n.explained(t, f.r.ID)
			for what, d := range map[string]api.Decision{"explained": d, "journaled": journaled} {
				if d.Revision != 3 || d.Effective.Value(policy.KeyNetwork, policy.Loose) != policy.Tight {
					t.Errorf("revision %d is %s, 3 is in force", d.Revision, what)
				}
			}
		})
	}
}

// The answer of a shim, which is revision 2, can come behind its report of revision 3.
func TestAnswerBehindAReport(t *testing.T) {
	n := newNode(t, ticking)
	f := n.shimOf(t, "web", true)
	f.behind = func() {
		later := *f.r.Decision
		later.Revision++
		later.Effective = later.Effective.Put(policy.Field{Key: policy.KeyMemory, Value: 300 << 20, Origin: policy.Origin{Author: policy.Prediction, Source: api.SourceAirbag}})
		later.Changes = append(slices.Clone(later.Changes), api.Change{Revision: later.Revision, Author: policy.Prediction, Source: api.SourceAirbag,
			Results: []api.Result{{Lever: api.SourceAirbag, Status: api.ResultApplied}}})
		f.putLocked(later)
		if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Changed: []api.Decision{later}}); err != nil {
			t.Error(err)
		}
	}
	n.set(t, f, "network", "off")
	d, journaled := n.explained(t, f.r.ID)
	for what, d := range map[string]api.Decision{"explained": d, "journaled": journaled} {
		if memory, _ := d.Effective.Limit(policy.KeyMemory); d.Revision != 3 || memory != 300<<20 || len(d.Changes) != 2 {
			t.Errorf("%s is revision %d, memory %d", what, d.Revision, memory)
		}
	}
	told := 0
	for _, e := range n.journal.events {
		if e.Kind == api.EventUpdated {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the change is told of %d times", told)
	}
}

// An update by a client of containerd is decided from what the shim knows. Who the container is the daemon may know better by then.
func TestUpdateKeepsWhoItIs(t *testing.T) {
	n := newNode(t, nil)
	d := withoutCode(n.admit(t, "web"))
	known := d.Facts.Image.Digest
	d.Facts.Image, d.Sources = workload.Image{}, []api.Source{{Name: api.SourceImage, Status: api.SourceLate}}
	if _, err := n.Update(t.Context(), api.UpdateRequest{Version: api.Version, ID: d.Facts.ID, Before: d}); err != nil {
		t.Fatal(err)
	}
	if is, journaled := n.explained(t, d.Facts.ID); is.Facts.Image.Digest != known || is.Revision != 2 || journaled.Facts.Image.Digest != known || slices.ContainsFunc(is.Sources, late) {
		t.Errorf("revision %d of image %+v, sources %+v", is.Revision, is.Facts.Image, is.Sources)
	}
}

// The end of a run that was not heard of does not hide the next run of that name, which was decided without this daemon.
func TestNextRunOfAName(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Monitor = &suspicious{} })
	f := n.shimOf(t, "web", true)
	next := *f.r.Decision
	next.Facts.Run, next.Availability = "web-2", api.BySiteDefault
	f.r.Run = next.Facts.Run
	f.putLocked(next)
	o := observation("web", false)
	o.Run = next.Facts.Run
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{o}}); err != nil {
		t.Fatal(err)
	}
	if d, _ := n.explained(t, f.r.ID); d.Facts.Run != next.Facts.Run || d.Availability != api.BySiteDefault {
		t.Errorf("run %s is explained, %s runs", d.Facts.Run, next.Facts.Run)
	}
	if kept := n.history.observations(); len(kept) != 1 || len(kept[0].Keys) == 0 {
		t.Errorf("its history has %+v", kept)
	}
}

// remembering is a history that knows what a run was found at.
type remembering struct {
	*fakeHistory
	of map[string]evidence.Findings
}

func (r remembering) Found(run string) evidence.Findings { return r.of[run] }

// assessing is a Monitor that finds a container as risky as it has been found at something, and that in no report.
type assessing struct{ *suspicious }

func (assessing) Reassess(_ api.Decision, f evidence.Findings) *evidence.Risk {
	if f.Empty() {
		return &evidence.Risk{Score: 5, Level: evidence.Low}
	}
	return &evidence.Risk{Score: 90, Level: evidence.Critical}
}

// A daemon that starts anew knows what the containers that run were found at, and has it answered: nothing may be reported of them for minutes.
func TestRestartedDaemonKnowsWhatWasFound(t *testing.T) {
	r := &scripted{}
	n := newNode(t, func(c *Config) { c.Monitor, c.Responder = assessing{&suspicious{}}, r })
	f := n.shimOf(t, "web", true)
	past := evidence.Findings{Contacts: []evidence.Contact{{Destination: "tcp/192.0.2.1:443"}}}
	n.Service = New(n.cfg, remembering{n.history, map[string]evidence.Findings{f.r.Run: past}}, n.journal, identify(named), n.history, nil)
	if s, ok := n.Subject(f.r.ID); !ok || s.Risk != 90 {
		t.Errorf("%+v, %t", s, ok)
	}
	if ids, _ := n.responses.take(n.cfg.Now(), 9); !slices.Equal(ids, []workload.ID{f.r.ID}) {
		t.Errorf("looked at is %v", ids)
	}
	o := observation("web", false)
	n.watch(t.Context(), &o)
	if d, _ := n.explained(t, f.r.ID); len(d.Findings.Contacts) != 1 || len(o.Findings.Contacts) != 1 {
		t.Errorf("after a report it was found at %+v", d.Findings)
	}
	n.mu.Lock() // too many run, and it comes back with its next report
	n.dropLocked(f.r.ID)
	n.mu.Unlock()
	n.know(o)
	if s, ok := n.Subject(f.r.ID); !ok || s.Risk != 90 {
		t.Errorf("come back: %+v, %t", s, ok)
	}
}
