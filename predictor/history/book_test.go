package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type fixture struct {
	t     *testing.T
	dir   string
	now   time.Time
	store *store.Store
	*Book
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), now: epoch}
	f.open()
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	ctx := context.Background()
	var err error
	if f.store, err = store.Open(ctx, f.dir, store.Options{Unsynced: true}); err != nil {
		f.t.Fatal(err)
	}
	s := f.store
	f.t.Cleanup(func() { s.Close() })
	if f.Book, err = Open(ctx, f.store, Options{Now: func() time.Time { return f.now }}); err != nil {
		f.t.Fatal(err)
	}
}

// crash reopens without a snapshot.
func (f *fixture) crash() {
	f.t.Helper()
	f.store.Close()
	f.open()
}

func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.Book.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.crash()
}

func (f *fixture) record(o workload.Observation) {
	f.t.Helper()
	if err := f.Record(context.Background(), o); err != nil {
		f.t.Fatal(err)
	}
}

var redis = workload.Facts{Image: workload.Image{Repository: "redis", Digest: "sha256:1"}, Args: []string{"redis-server"}}

// observe returns the final observation of run n of f: 10 s long, one a minute.
func observe(f workload.Facts, n int, memory int64, syscalls ...string) workload.Observation {
	o := workload.Observation{Version: workload.ObservationVersion, ID: workload.ID{Namespace: "default", Container: "c"},
		Run: fmt.Sprintf("run-%s-%d", f.Image.Digest, n), Started: epoch.Add(time.Duration(n) * time.Minute),
		Final: true, Watched: true, Syscalls: map[string]uint64{}}
	f.Describe(&o)
	o.Ended = o.Started.Add(10 * time.Second)
	o.Usage = workload.Usage{MemoryPeak: memory, CPUPeak: 0.5, PIDsPeak: 4, Samples: 10}
	for _, s := range syscalls {
		o.Syscalls[s] = 3
	}
	return o
}

func TestNothingKnown(t *testing.T) {
	f := newFixture(t)
	p := f.Predict(redis.Query())
	if p.Runs != 0 || p.Level != "" || p.Memory.Value != 0 || p.Unseen != 1 || p.Sealed {
		t.Errorf("%+v", p)
	}
}

func TestFourIdenticalRunsSeal(t *testing.T) {
	f := newFixture(t)
	for n := 1; n <= 4; n++ {
		if p := f.Predict(redis.Query()); p.Sealed {
			t.Errorf("sealed after %d runs", n-1)
		}
		f.record(observe(redis, n, 100<<20, "openat", "execve"))
	}
	p := f.Predict(redis.Query())
	if !p.Sealed || p.Unseen != 0.2 || p.Runs != 4 || p.Level != "image+command" {
		t.Errorf("%+v", p)
	}
	if p.Seen["openat"] != 4 || p.Seen["execve"] != 4 || len(p.Seen) != 2 {
		t.Errorf("seen %v", p.Seen)
	}
	if p.Memory.Value < 100<<20 || p.Memory.Value > 400<<20 || p.Memory.Coverage != 0.99 {
		t.Errorf("memory %+v", p.Memory)
	}
	for _, again := range []func(){f.crash, f.reopen} {
		again()
		if q := f.Predict(redis.Query()); fmt.Sprint(q) != fmt.Sprint(p) {
			t.Errorf("after reopening\n%+v, before\n%+v", q, p)
		}
	}
}

func TestCheckpointsAndFinalCountOnce(t *testing.T) {
	f := newFixture(t)
	o := observe(redis, 1, 50<<20, "openat")
	cp := o
	cp.Final, cp.Ended = false, time.Time{}
	for i := range 3 {
		cp.Usage.MemoryPeak = int64(i+1) << 20
		f.record(cp)
		f.crash()
		p := f.Predict(redis.Query())
		if p.Runs != 1 || p.Seen["openat"] != 1 || p.Unseen != 1 || p.Memory.Value < float64(cp.Usage.MemoryPeak) {
			t.Fatalf("checkpoint %d: %+v", i, p)
		}
	}
	f.record(o)
	f.record(o) // the shim repeats what was not acknowledged
	for _, again := range []func(){func() {}, f.crash, f.reopen, f.crash} {
		again()
		if p := f.Predict(redis.Query()); p.Runs != 1 || p.Unseen != 1 || p.Memory.Value < 50<<20 || p.Seen["openat"] != 1 {
			t.Fatalf("final: %+v", p)
		}
		if s := f.Stats(); s.Runs != 1 || s.Open != 0 || s.Workloads != 1 {
			t.Fatalf("%+v", s)
		}
	}
}

func TestRunWithoutEndCountsByItsLastCheckpoint(t *testing.T) {
	f := newFixture(t)
	cp := observe(redis, 1, 50<<20, "openat")
	cp.Final, cp.Ended = false, time.Time{}
	f.record(cp)
	if got := f.OpenRuns(); len(got) != 1 || got[0] != cp.Run {
		t.Fatalf("open: %v", got)
	}
	if err := f.Abandon(context.Background(), cp.Run); err != nil {
		t.Fatal(err)
	}
	other := observe(redis, 2, 60<<20, "openat")
	other.Final, other.Ended = false, time.Time{}
	f.record(other)
	f.now = time.Now().Add(2 * time.Hour)
	f.crash() // the records' times are real ones
	if s := f.Stats(); s.Runs != 2 || s.Open != 0 {
		t.Errorf("%+v", s)
	}
	other.Syscalls["ptrace"] = 1 // it lived after all
	f.record(other)
	if p := f.Predict(redis.Query()); p.Runs != 2 || p.Seen["ptrace"] != 1 || p.Seen["openat"] != 2 || p.Unseen != 2./3 {
		t.Errorf("%+v", p)
	}
	runs, err := f.Runs(context.Background(), redis.Keys()[0], 0)
	if err != nil || len(runs) != 2 || runs[0].Run != other.Run || !runs[0].Exit.Lost {
		t.Errorf("%+v, %v", runs, err)
	}
}

func TestNewImageOfAKnownCommand(t *testing.T) {
	f := newFixture(t)
	for n := 1; n <= 6; n++ {
		f.record(observe(redis, n, 100<<20, "openat"))
	}
	next := redis
	next.Image.Digest = "sha256:2"
	p := f.Predict(next.Query())
	if p.Runs != 6 || p.Level != "repository+command" || p.Seen["openat"] != 6 || p.Memory.Value == 0 {
		t.Errorf("%+v", p)
	}
	if p.Sealed {
		t.Error("a new image is sealed without ever having run")
	}
	f.record(observe(next, 1, 120<<20, "openat", "memfd_create"))
	p = f.Predict(next.Query())
	if p.Runs != 1 || p.Level != "image+command" || p.Seen["openat"] != 7 || p.Unseen != 1 {
		t.Errorf("%+v", p)
	}
}

func TestUnwatchedRunsCountForUsageOnly(t *testing.T) {
	f := newFixture(t)
	for n := 1; n <= 5; n++ {
		o := observe(redis, n, 100<<20)
		o.Watched = false
		f.record(o)
	}
	if p := f.Predict(redis.Query()); p.Runs != 5 || p.Memory.Value == 0 || p.Unseen != 1 || p.Sealed {
		t.Errorf("%+v", p)
	}
}

func TestListing(t *testing.T) {
	f := newFixture(t)
	nginx := workload.Facts{Image: workload.Image{Repository: "nginx", Digest: "sha256:9"}, Args: []string{"nginx"}}
	f.record(observe(redis, 1, 1<<20))
	f.record(observe(nginx, 2, 1<<20))
	if got := f.Workloads("", 0); len(got) != 2 || got[0].Name != "nginx -- nginx" || got[0].Runs != 1 {
		t.Errorf("%+v", got)
	}
	if got := f.Workloads("REDIS", 0); len(got) != 1 || got[0].Key != redis.Keys()[0] {
		t.Errorf("%+v", got)
	}
	if got := f.Workloads(redis.Keys()[0].Value[:8], 0); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// What a run that goes on was found at outlives the daemon, and ends with the run.
func TestFoundSoFar(t *testing.T) {
	f := newFixture(t)
	o := observe(redis, 1, 64<<20, "read")
	o.Final, o.Ended = false, time.Time{}
	o.Findings.Contacts = []evidence.Contact{{Destination: "tcp/192.0.2.1:443"}}
	f.record(o)
	for range 2 {
		if found := f.Found(o.Run); len(found.Contacts) != 1 || !f.Found("another").Empty() {
			t.Errorf("found %+v", found)
		}
		f.crash()
	}
	o.Final = true
	f.record(o)
	if found := f.Found(o.Run); !found.Empty() {
		t.Errorf("after its end %+v", found)
	}
}
