package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

func TestAdmit(t *testing.T) {
	var recommended workload.Facts
	n := newNode(t, nil)
	n.history.recommend = func(p workload.Prediction, f workload.Facts) []policy.Claim {
		recommended = f
		return []policy.Claim{{Key: policy.KeyPIDs, Value: policy.Value(p.PIDs.Value),
			Origin: policy.Origin{Author: policy.Prediction, Source: "history", Reason: "peak"}}}
	}
	n.history.foresight.Sources = []api.Source{{Name: "history", Status: api.SourceOK, Reason: "3 runs at level image+command"}}
	n.history.prediction = workload.Prediction{Runs: 3, Level: "image+command", PIDs: workload.Bound{Value: 64}, Sealed: true}
	d := n.admit(t, "web")
	if d.Availability != api.ByDaemon || d.Seccomp == nil || len(d.Table) == 0 || !d.Time.Equal(clock) {
		t.Errorf("decided by %q at %s, profile %v", d.Availability, d.Time, d.Seccomp != nil)
	}
	if v, _ := d.Effective.Limit(policy.KeyPIDs); v != 64 {
		t.Errorf("the recommendation did not take part: pids %d", v)
	}
	// The image came before the prediction: it is part of the keys.
	if recommended.Image.Digest == "" || n.history.keys[0][0].Level != workload.LevelDigestCommand || d.Facts.Image.Name == "" {
		t.Errorf("predicted for %v, recommended for %+v", n.history.keys, recommended.Image)
	}
	if len(d.Sources) != 2 || d.Sources[0].Name != "image" || d.Sources[1].Name != "history" || d.Sources[1].Status != api.SourceOK ||
		d.Sources[1].Reason != "3 runs at level image+command" {
		t.Errorf("sources %+v", d.Sources)
	}
	kept, err := n.Explain(t.Context(), api.ExplainRequest{ID: d.Facts.ID})
	if err != nil || kept.Facts.Run != d.Facts.Run || kept.Seccomp != nil || kept.Table != nil {
		t.Errorf("explained: %v, run %q, profile %v", err, kept.Facts.Run, kept.Seccomp)
	}
	journaled := n.journal.decisions[d.Facts.ID]
	if journaled.Facts.Run != d.Facts.Run || journaled.Table != nil {
		t.Errorf("journaled: %q", journaled.Facts.Run)
	}
	events, _ := n.Events(t.Context(), api.EventsRequest{})
	if len(events.Events) != 1 || events.Events[0].Kind != api.EventAdmitted || events.Events[0].ID != d.Facts.ID ||
		!strings.Contains(events.Events[0].Message, "mode adaptive, earlier runs: 3, learning") {
		t.Errorf("events %+v", events.Events)
	}
	if list, _ := n.List(t.Context()); len(list.Containers) != 1 || list.Containers[0].Limits.PIDs != 64 || list.Containers[0].Mode != "adaptive" {
		t.Errorf("list %+v", list)
	}
}

// A source that hangs costs its budget and a recorded reason, not the container.
func TestLateIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.Service = New(n.cfg, n.history, n.journal, identify(func(ctx context.Context, _ *workload.Facts) []api.Source {
			<-ctx.Done()
			return []api.Source{{Name: "image", Status: api.SourceLate, Reason: "no answer"}}
		}), n.history, nil)
		began := time.Now()
		d := n.admit(t, "slow")
		if took := time.Since(began); took != n.cfg.Predict {
			t.Errorf("waited %s", took)
		}
		if d.Sources[0].Status != api.SourceLate || d.Effective.Mode() != policy.ModeAdaptive {
			t.Errorf("%+v", d.Sources)
		}
	})
}

func TestDryRunRecordsNothing(t *testing.T) {
	n := newNode(t, nil)
	req := request(t, "dry")
	req.DryRun, req.ListenerPath = true, ""
	d, err := n.Admit(t.Context(), req)
	if err != nil || d.Seccomp == nil {
		t.Fatalf("%v, profile %v", err, d.Seccomp)
	}
	list, _ := n.List(t.Context())
	if _, err := n.Explain(t.Context(), api.ExplainRequest{ID: req.Facts.ID}); !errdefs.IsNotFound(err) || len(list.Containers) != 0 ||
		len(n.journal.decisions) != 0 || len(n.journal.events) != 0 || len(n.seal) != 0 {
		t.Errorf("explain: %v; %d containers, %d decisions, %d events, %d to seal", err, len(list.Containers), len(n.journal.decisions), len(n.journal.events), len(n.seal))
	}
}

func TestAdmitRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*api.AdmitRequest)
		is     func(error) bool
		says   string
	}{
		"a newer API":          {func(r *api.AdmitRequest) { r.Version = api.Version + 1 }, errdefs.IsNotImplemented, "restart the daemon"},
		"an id with a slash":   {func(r *api.AdmitRequest) { r.Facts.ID.Container = "../x" }, errdefs.IsInvalidArgument, "container id"},
		"no namespace":         {func(r *api.AdmitRequest) { r.Facts.ID.Namespace = "" }, errdefs.IsInvalidArgument, "namespace is empty"},
		"malformed annotation": {func(r *api.AdmitRequest) { r.Facts.Annotations = map[string]string{"forefend.dev/pids": "x"} }, errdefs.IsInvalidArgument, "forefend.dev/pids"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, nil)
			req := request(t, "refused")
			test.change(&req)
			if _, err := n.Admit(t.Context(), req); !test.is(err) || !strings.Contains(err.Error(), test.says) {
				t.Error(err)
			}
			if len(n.running) != 0 || len(n.journal.decisions) != 0 || len(n.journal.events) != 0 {
				t.Error("something of it was kept")
			}
		})
	}
}

// TestNewerShim: a shim of the next release, which says that this daemon does right by what it writes.
func TestNewerShim(t *testing.T) {
	n := newNode(t, nil)
	req := request(t, "newer")
	req.Version, req.Oldest = api.Version+1, api.Version
	d, err := n.Admit(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Update(t.Context(), api.UpdateRequest{Version: api.Version + 1, Oldest: api.Version, ID: req.Facts.ID, Before: d}); err != nil {
		t.Error(err)
	}
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version + 1, Oldest: api.Version}); err != nil {
		t.Error(err)
	}
	req.Oldest = api.Version + 1
	if _, err := n.Admit(t.Context(), req); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

func TestObserve(t *testing.T) {
	n := newNode(t, nil)
	d := n.admit(t, "web")
	denied := api.Event{ID: d.Facts.ID, Run: d.Facts.Run, Kind: api.EventDenied, Message: "bpf by sh denied"}
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{observation("web", false)}, Events: []api.Event{denied}, Lost: 7}); err != nil {
		t.Fatal(err)
	}
	list, _ := n.List(t.Context())
	if len(list.Containers) != 1 || list.Containers[0].Usage.MemoryPeak != 12<<20 {
		t.Errorf("%+v", list)
	}
	kept := n.history.observations()
	if len(kept) != 1 || kept[0].Keys[0].Level != workload.LevelDigestCommand || kept[0].Image != "docker.io/library/redis:7" || kept[0].Name == "" {
		t.Errorf("not completed with what the daemon knows: %+v", kept)
	}
	final := observation("web", true)
	final.Usage.OOMKills = 2
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{final}}); err != nil {
		t.Fatal(err)
	}
	if list, _ := n.List(t.Context()); len(list.Containers) != 0 {
		t.Errorf("still listed: %+v", list)
	}
	if got, want := n.journal.kinds(), []string{api.EventAdmitted, api.EventDenied, api.EventDegraded, api.EventOOM}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	events, _ := n.Events(t.Context(), api.EventsRequest{After: 2})
	if m := events.Events[0].Message; !strings.Contains(m, "dropped 7 events") {
		t.Error(m)
	}
	if m := events.Events[1].Message; m != "exit status 3 after 1m30s, memory peak 12 MiB, 1.50 CPU seconds, 2 processes killed for memory" {
		t.Error(m)
	}
	if d, err := n.Explain(t.Context(), api.ExplainRequest{ID: final.ID}); err != nil || d.Facts.Run != final.Run {
		t.Errorf("explain of a container that is gone: %v", err)
	}
}

// The final observation of an earlier run must not take away the container that now has its id.
func TestObservationOfAnEarlierRun(t *testing.T) {
	n := newNode(t, nil)
	n.admit(t, "web")
	old := observation("web", true)
	old.Run = "web-0"
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{old}}); err != nil {
		t.Fatal(err)
	}
	if list, _ := n.List(t.Context()); len(list.Containers) != 1 || list.Containers[0].Usage.MemoryPeak != 0 {
		t.Errorf("%+v", list)
	}
	if kept := n.history.observations(); len(kept) != 1 || len(kept[0].Keys) != 0 {
		t.Errorf("%+v", kept)
	}
}

// What is not durable is not confirmed, and not told: the shim sends all of it again.
func TestObserveThatCannotBeKept(t *testing.T) {
	n := newNode(t, nil)
	n.admit(t, "web")
	full := errors.New("no space left on device")
	n.history.broken = full
	req := api.ObserveRequest{Observations: []workload.Observation{observation("web", true)}, Events: []api.Event{{Kind: api.EventDenied}}, Lost: 1}
	for range 3 {
		if err := n.Observe(t.Context(), req); !errors.Is(err, full) {
			t.Fatal(err)
		}
	}
	if got := n.journal.kinds(); len(got) != 1 {
		t.Errorf("told although it failed: %q", got)
	}
	if list, _ := n.List(t.Context()); len(list.Containers) != 1 {
		t.Error("the container is gone from the list")
	}
	n.history.broken = nil
	if err := n.Observe(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got, want := n.journal.kinds(), []string{api.EventAdmitted, api.EventDenied, api.EventDegraded, api.EventExited}; !slices.Equal(got, want) {
		t.Errorf("events %q", got)
	}
}

func TestObserveRefusals(t *testing.T) {
	n := newNode(t, nil)
	hostile := observation("web", true)
	hostile.ID.Container = "../../etc"
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{hostile}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version + 1}); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	if len(n.history.observations()) != 0 {
		t.Error("kept")
	}
}

func TestUpdate(t *testing.T) {
	n := newNode(t, nil)
	before := n.admit(t, "web")
	memory := int64(96 << 20)
	req := api.UpdateRequest{Version: api.Version, ID: before.Facts.ID, Before: before, Resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}}
	after, err := n.Update(t.Context(), req)
	if err != nil || after.Revision != 2 {
		t.Fatalf("revision %d, %v", after.Revision, err)
	}
	explained, _ := n.Explain(t.Context(), api.ExplainRequest{ID: req.ID})
	if v, _ := explained.Effective.Limit(policy.KeyMemory); v != memory || explained.Revision != 2 || explained.Table != nil || n.journal.decisions[req.ID].Revision != 2 {
		t.Errorf("explained: revision %d, memory %d", explained.Revision, v)
	}
	// runc refused: what was in force before is in force.
	if d, err := n.Update(t.Context(), api.UpdateRequest{ID: req.ID, Before: before, Refused: true}); err != nil || d.Revision != 1 {
		t.Errorf("revision %d, %v", d.Revision, err)
	}
	if d, _ := n.Explain(t.Context(), api.ExplainRequest{ID: req.ID}); d.Revision != 1 {
		t.Errorf("explained: revision %d", d.Revision)
	}
}

func TestUpdateRefusals(t *testing.T) {
	n := newNode(t, nil)
	before := n.admit(t, "web")
	for name, test := range map[string]struct {
		req api.UpdateRequest
		is  func(error) bool
	}{
		"a newer API":        {api.UpdateRequest{Version: api.Version + 1, ID: before.Facts.ID, Before: before}, errdefs.IsNotImplemented},
		"no id":              {api.UpdateRequest{}, errdefs.IsInvalidArgument},
		"another's decision": {api.UpdateRequest{ID: containerID("other"), Before: before}, errdefs.IsInvalidArgument},
		"malformed annotation": {func() api.UpdateRequest {
			b := before
			b.Facts.Annotations = map[string]string{"forefend.dev/cpus": "x"}
			return api.UpdateRequest{ID: b.Facts.ID, Before: b}
		}(), errdefs.IsInvalidArgument},
	} {
		if _, err := n.Update(t.Context(), test.req); !test.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d, _ := n.Explain(t.Context(), api.ExplainRequest{ID: before.Facts.ID}); d.Revision != 1 {
		t.Errorf("revision %d", d.Revision)
	}
}

// running writes the record of a container whose shim, and first process, is this test.
func (n *node) record(t *testing.T, name string, change func(*record.Record)) record.Record {
	t.Helper()
	start, err := record.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	facts := workload.Facts{ID: containerID(name), Run: name + "-1", Args: []string{"redis-server"}}
	r := record.Record{
		ID: facts.ID, Run: facts.Run, Facts: facts, ShimPID: os.Getpid(), ShimStart: start, PID: os.Getpid(), PIDStart: start,
		Created: clock, Started: clock, Decision: &api.Decision{Version: api.Version, Facts: facts, Availability: api.BySiteDefault, Revision: 1},
	}
	if change != nil {
		change(&r)
	}
	if err := n.cfg.Containers.Write(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func listed(t *testing.T, n *node) (names []string) {
	t.Helper()
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Containers {
		names = append(names, c.ID.Container)
	}
	return names
}

func TestRestartedDaemonFindsWhatRuns(t *testing.T) {
	n := newNode(t, nil)
	n.record(t, "b", nil)
	n.record(t, "a", nil)
	n.record(t, "dead", func(r *record.Record) { r.ShimStart++ })
	n.record(t, "before-the-boot", func(r *record.Record) { r.Boot = "another" })
	n.record(t, "undecided", func(r *record.Record) { r.Decision = nil })
	damaged, err := n.cfg.Containers.Path(containerID("damaged"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(damaged, 0o700), os.WriteFile(damaged+"/record.json", []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if got := listed(t, n); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("found %q", got)
	}
	if list, _ := n.List(t.Context()); list.Containers[0].PID != os.Getpid() || !list.Containers[0].Started.Equal(clock) || list.Containers[0].By != api.BySiteDefault {
		t.Errorf("%+v", list.Containers[0])
	}
	if st, _ := n.Status(t.Context()); st.Containers != 2 || st.API != api.Version || st.Version != "test" {
		t.Errorf("%+v", st)
	}
	// And they go on as if nothing had happened.
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{observation("a", true)}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, n); !slices.Equal(got, []string{"b"}) {
		t.Errorf("left %q", got)
	}
}

// A container that was decided while no daemon ran is known from its first report on.
func TestContainerDecidedWithoutTheDaemon(t *testing.T) {
	n := newNode(t, nil)
	n.record(t, "a", nil)
	n.record(t, "b", nil)
	other := observation("b", false)
	other.Run = "b-0" // the record is of another run
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{observation("a", false), other, observation("c", false)}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, n); !slices.Equal(got, []string{"a"}) {
		t.Errorf("known: %q", got)
	}
}

// Between Admit and runc's create there is no process; ps looks again until the record has one.
func TestListCompletesWhatWasAdmitted(t *testing.T) {
	n := newNode(t, nil)
	n.admit(t, "web")
	n.record(t, "web", func(r *record.Record) { r.PID, r.PIDStart, r.Started = 0, 0, time.Time{} })
	if list, _ := n.List(t.Context()); list.Containers[0].PID != 0 {
		t.Errorf("%+v", list.Containers[0])
	}
	n.record(t, "web", nil)
	if list, _ := n.List(t.Context()); list.Containers[0].PID != os.Getpid() || !list.Containers[0].Started.Equal(clock) {
		t.Errorf("%+v", list.Containers[0])
	}
	// An earlier run's record says nothing about this one.
	n.admit(t, "again")
	n.record(t, "again", func(r *record.Record) { r.Run = "again-0" })
	if list, _ := n.List(t.Context()); list.Containers[0].PID != 0 {
		t.Errorf("%+v", list.Containers[0])
	}
}

func TestHistoryIsTheModels(t *testing.T) {
	if got, err := newNode(t, nil).History(t.Context(), api.HistoryRequest{Workload: "redis"}); err != nil || got.SetAside[0] != "redis" {
		t.Errorf("%+v %v", got, err)
	}
}

// 50 containers at once, with readers in between: nothing is lost, no one waits for the disk.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t, nil)
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			name := fmt.Sprint("c", i)
			if _, err := n.Admit(t.Context(), request(t, name)); err != nil {
				t.Error(err)
			}
			if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{observation(name, i%2 == 0)}}); err != nil {
				t.Error(err)
			}
			if _, err := n.List(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := len(listed(t, n)); got != 25 {
		t.Errorf("%d containers are listed", got)
	}
	if len(n.history.observations()) != 50 {
		t.Errorf("%d observations", len(n.history.observations()))
	}
}

// A node's containers, and a page of its events, fit into one message of 4 MiB however many and talkative they are.
func TestAnswersFitIntoAMessage(t *testing.T) {
	const room = 4<<20 - 64<<10
	n := newNode(t, nil)
	n.history.prediction.Seen = make(map[string]int)
	for i := range 400 {
		n.history.prediction.Seen[fmt.Sprint("system_call_", i)] = 5
	}
	o := observation("web", false)
	o.Usage.Series = make([]workload.Point, workload.MaxSeries)
	d := n.admit(t, "web")
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{o}}); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		r := *n.running[d.Facts.ID]
		n.running[containerID(fmt.Sprintf("%076d", i))] = &r
	}
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if body, err := json.Marshal(list); err != nil || len(body) > room || list.Containers[0].Usage.MemoryPeak == 0 {
		t.Errorf("%d containers take %d bytes: %v", len(list.Containers), len(body), err)
	}

	fields := make(map[string]string)
	for i := range maxFields {
		fields[fmt.Sprint(i)] = strings.Repeat("\x01", maxField) // six bytes each in JSON
	}
	for range 1000 {
		n.publish(api.Event{Fields: fields, Message: strings.Repeat("x", maxMessage)})
	}
	seen := 0
	for after := uint64(0); ; {
		page, err := n.Events(t.Context(), api.EventsRequest{After: after})
		if err != nil {
			t.Fatal(err)
		}
		if body, err := json.Marshal(page); err != nil || len(body) > room {
			t.Fatalf("%d events take %d bytes: %v", len(page.Events), len(body), err)
		}
		if len(page.Events) == 0 {
			break
		}
		seen, after = seen+len(page.Events), page.Next
	}
	if seen != 1001 {
		t.Errorf("%d events", seen)
	}
}

// A run that was admitted before anybody could say who it is counts to its workload all the same.
func TestLateIdentityIsMadeUpFor(t *testing.T) {
	n := newNode(t, nil)
	asked := 0
	n.Service = New(n.cfg, n.history, n.journal, identify(func(ctx context.Context, f *workload.Facts) []api.Source {
		if asked++; asked == 1 {
			return []api.Source{{Name: "image", Status: api.SourceLate}}
		}
		return named(ctx, f)
	}), n.history, nil)
	n.admit(t, "web")
	if err := n.Observe(t.Context(), api.ObserveRequest{Observations: []workload.Observation{observation("web", true)}}); err != nil {
		t.Fatal(err)
	}
	recorded := n.history.kept[len(n.history.kept)-1]
	if recorded.Image != "docker.io/library/redis:7" || recorded.Keys[0].Level != workload.LevelDigestCommand {
		t.Errorf("recorded as %q under %v", recorded.Image, recorded.Keys)
	}
	if asked != 2 {
		t.Errorf("identified %d times", asked)
	}
}

// A container whose creation failed after it was admitted does not stay in the list.
func TestListForgetsWhatNeverCameToBe(t *testing.T) {
	now := clock
	n := newNode(t, func(c *Config) { c.Now = func() time.Time { return now } })
	n.admit(t, "stillborn")
	if list, _ := n.List(t.Context()); len(list.Containers) != 1 {
		t.Errorf("while it is being created: %+v", list)
	}
	now = now.Add(creation + time.Second)
	if list, _ := n.List(t.Context()); len(list.Containers) != 0 {
		t.Errorf("afterwards: %+v", list)
	}
}
