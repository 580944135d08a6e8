package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// clock is the time of every decision in these tests.
var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeHistory stands in for the models: it predicts what it is told to and keeps what it is given.
type fakeHistory struct {
	prediction workload.Prediction
	foresight  Foresight
	recommend  func(workload.Prediction, workload.Facts) []policy.Claim

	mu      sync.Mutex
	broken  error                  // guarded by mu: what Record answers
	kept    []workload.Observation // guarded by mu
	keys    [][]workload.Key       // guarded by mu: of each Foresee
	awaited []workload.ID          // guarded by mu
}

// Foresee implements Predictor: the history is its only source.
func (h *fakeHistory) Foresee(_ context.Context, req *api.AdmitRequest) Foresight {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = append(h.keys, req.Facts.Keys())
	f := h.foresight
	f.Prediction = h.prediction
	if h.recommend != nil {
		f.Claims = h.recommend(h.prediction, req.Facts)
	}
	return f
}

func (h *fakeHistory) Await(ctx context.Context, f workload.Facts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.awaited = append(h.awaited, f.ID)
}

func (h *fakeHistory) Profile(r api.ProfileRequest) api.ProfileResponse {
	return api.ProfileResponse{Standings: []evidence.Standing{{User: r.Name}}}
}

func (h *fakeHistory) Record(_ context.Context, o workload.Observation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	h.kept = append(h.kept, o)
	return nil
}

func (h *fakeHistory) Search(_ context.Context, r api.HistoryRequest) (api.HistoryResponse, error) {
	return api.HistoryResponse{SetAside: []string{r.Workload}}, nil
}

func (h *fakeHistory) observations() []workload.Observation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept
}

// fakeJournal keeps what is appended, the newest decision of each container.
type fakeJournal struct {
	mu        sync.Mutex
	decisions map[workload.ID]api.Decision // guarded by mu
	events    []api.Event                  // guarded by mu
	reads     int                          // of decisions; guarded by mu
}

func (j *fakeJournal) AppendDecision(d api.Decision) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.decisions[d.Facts.ID] = d
}

func (j *fakeJournal) AppendEvent(e api.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

func (j *fakeJournal) Decision(_ context.Context, id workload.ID) (api.Decision, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reads++
	if d, ok := j.decisions[id]; ok {
		return d, nil
	}
	return api.Decision{}, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// kinds lists the kinds of the events appended so far.
func (j *fakeJournal) kinds() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var kinds []string
	for _, e := range j.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// identify is an Identifier.
type identify func(context.Context, *workload.Facts) []api.Source

func (f identify) Identify(ctx context.Context, facts *workload.Facts) []api.Source {
	return f(ctx, facts)
}

func named(_ context.Context, f *workload.Facts) []api.Source {
	f.Image = workload.Image{Name: "docker.io/library/redis:7", Repository: "docker.io/library/redis", Digest: "sha256:0123"}
	return []api.Source{{Name: "image", Status: api.SourceOK, Took: time.Millisecond, Reason: f.Image.Name}}
}

// node is a Service with everything around it.
type node struct {
	*Service
	history *fakeHistory
	journal *fakeJournal
	cfg     Config
}

// newNode builds a Service on a node whose directories are below a temporary one; change may alter its Config.
func newNode(t testing.TB, change func(*Config)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{
		history: &fakeHistory{prediction: workload.Prediction{Unseen: 1}},
		journal: &fakeJournal{decisions: make(map[workload.ID]api.Decision)},
		cfg: Config{
			Predict: 50 * time.Millisecond, Containers: record.Dir(filepath.Join(dir, "c")), NotifyDir: filepath.Join(dir, "n"),
			Sealed: record.SealedDir(filepath.Join(dir, "sealed")), SpoolDir: filepath.Join(dir, "spool"),
			Now:    func() time.Time { return clock },
			Status: func() api.Status { return api.Status{Version: "test"} },
		},
	}
	if change != nil {
		change(&n.cfg)
	}
	n.Service = New(n.cfg, n.history, n.journal, identify(named), n.history, nil)
	return n
}

// restart builds the Service anew over the same directories, as a daemon after a crash does.
func (n *node) restart() {
	n.Service = New(n.cfg, n.history, n.journal, identify(named), n.history, nil)
}

func containerID(name string) workload.ID { return workload.ID{Namespace: "default", Container: name} }

// request is what the shim sends for a container that ctr made from an image: default capabilities, the default profile.
func request(t testing.TB, name string) api.AdmitRequest {
	t.Helper()
	body, err := os.ReadFile("admit/testdata/spec.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(body, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	return api.AdmitRequest{
		Version: api.Version, Spec: spec, ListenerPath: "/run/forefend/n/0123456789abcdef0123",
		Facts: workload.Facts{ID: containerID(name), Run: name + "-1", Group: "default", Args: []string{"redis-server"}},
	}
}

func (n *node) admit(t testing.TB, name string) api.Decision {
	t.Helper()
	d, err := n.Admit(t.Context(), request(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// observation is one of the run that request asks for.
func observation(name string, final bool) workload.Observation {
	o := workload.Observation{
		Version: workload.ObservationVersion, ID: containerID(name), Run: name + "-1", Started: clock, Final: final,
		Usage: workload.Usage{MemoryPeak: 12 << 20, CPUSeconds: 1.5},
	}
	if final {
		o.Ended, o.Exit.Status = clock.Add(90*time.Second), 3
	}
	return o
}
