package history

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// TestKilled kills a process that records, several times over one store. Every run it
// was told is recorded must be there, once.
func TestKilled(t *testing.T) {
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	dir, acknowledged := t.TempDir(), 0
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRecordUntilKilled$", "-test.v")
		cmd.Env = append(os.Environ(), "FOREFEND_RECORD="+dir, fmt.Sprint("FOREFEND_FROM=", acknowledged))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		stop := 30 + rand.IntN(60)
		for n := 0; lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "RECORDED") {
				acknowledged++
				if n++; n == stop {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if acknowledged < 30*(round+1) {
			t.Fatalf("the other process recorded %d runs only", acknowledged)
		}
		s, err := store.Open(context.Background(), dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := Open(context.Background(), s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		// It may have recorded one more than it could say.
		if got := int(b.Stats().Runs); got != acknowledged && got != acknowledged+1 {
			t.Errorf("%d runs after %d were recorded", got, acknowledged)
		} else {
			acknowledged = got
		}
		if set := b.SetAside(); len(set) > 0 {
			t.Errorf("set aside: %q", set)
		}
		s.Close()
	}
}

// TestRecordUntilKilled is the other process of TestKilled.
func TestRecordUntilKilled(t *testing.T) {
	dir := os.Getenv("FOREFEND_RECORD")
	if dir == "" {
		t.Skip("helper of TestKilled")
	}
	var from int
	if _, err := fmt.Sscan(os.Getenv("FOREFEND_FROM"), &from); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(context.Background(), s, Options{SnapshotEvery: 10})
	if err != nil {
		t.Fatal(err)
	}
	for n := from; n < from+10_000; n++ { // in case nobody kills it
		o := observe(program(n%4), n, 1<<20, "openat")
		o.Run = fmt.Sprint("run", n)
		cp := o
		cp.Final, cp.Ended = false, time.Time{}
		for _, o := range []workload.Observation{cp, o} {
			if err := b.Record(context.Background(), o); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println("RECORDED", n)
	}
}

// Predictions go on while runs are recorded and snapshots are written.
func TestConcurrently(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := range 40 {
				o := observe(program(w), n, 1<<20, "openat", "execve")
				if err := f.Record(context.Background(), o); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				if p := f.Predict(program(w).Query()); len(p.Seen) > 2 {
					t.Errorf("%+v", p)
				}
				f.Workloads("app", 5)
				f.Stats()
				f.OpenRuns()
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := f.Snapshot(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	f.crash()
	if s := f.Stats(); s.Runs != 160 || s.Workloads != 4 {
		t.Errorf("%+v", s)
	}
}

func TestInvalidObservations(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*workload.Observation){
		"version":      func(o *workload.Observation) { o.Version = 2 },
		"run":          func(o *workload.Observation) { o.Run = "" },
		"no keys":      func(o *workload.Observation) { o.Keys = nil },
		"keys twice":   func(o *workload.Observation) { o.Keys = append(o.Keys, o.Keys...) },
		"level":        func(o *workload.Observation) { o.Keys = []workload.Key{{Level: 99, Value: "x"}} },
		"key value":    func(o *workload.Observation) { o.Keys = []workload.Key{{Value: strings.Repeat("x", 65)}} },
		"name":         func(o *workload.Observation) { o.Name = strings.Repeat("x", 1000) },
		"syscalls":     func(o *workload.Observation) { o.Syscalls = many(workload.MaxSyscalls + 1) },
		"destinations": func(o *workload.Observation) { o.Destinations = many(workload.MaxDestinations + 1) },
	} {
		o := observe(redis, 1, 1<<20)
		change(&o)
		if err := f.Record(context.Background(), o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := f.Stats(); s.Runs != 0 || s.Keys != 0 {
		t.Errorf("%+v", s)
	}
}

func many(n int) map[string]uint64 {
	m := make(map[string]uint64)
	for i := range n {
		m[fmt.Sprint("x", i)] = 1
	}
	return m
}

func TestWhatIsNoObservationIsSetAside(t *testing.T) {
	f := newFixture(t)
	f.record(observe(redis, 1, 1<<20, "openat"))
	for _, body := range []string{"{", `{"version":1}`, `{"version":7}`, "[]"} {
		if _, err := f.store.Append(context.Background(), store.Runs, "x", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	f.record(observe(redis, 2, 1<<20, "openat"))
	for range 2 {
		f.crash()
		if s := f.Stats(); s.Runs != 2 {
			t.Errorf("%+v", s)
		}
		if set := f.SetAside(); len(set) != 4 {
			t.Errorf("set aside: %q", set)
		}
	}
}

func TestDamagedSnapshotIsRebuilt(t *testing.T) {
	f := newFixture(t)
	for n := range 5 {
		f.record(observe(redis, n, 1<<20, "openat"))
	}
	want := fmt.Sprint(f.Predict(redis.Query()))
	f.reopen()
	f.store.Close()
	path := filepath.Join(f.dir, snapshotName+".snapshot")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open()
	if got := fmt.Sprint(f.Predict(redis.Query())); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if set := f.SetAside(); len(set) != 1 || !strings.Contains(set[0], "checksum") {
		t.Errorf("set aside: %q", set)
	}
}

func TestBoundedReplay(t *testing.T) {
	f := newFixture(t)
	for n := range 20 {
		f.record(observe(redis, n, 1<<20, "openat"))
	}
	f.store.Close()
	s, err := store.Open(context.Background(), f.dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := Open(context.Background(), s, Options{MaxReplay: 5})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Stats().Runs; got != 5 {
		t.Errorf("%d runs", got)
	}
	if set := b.SetAside(); len(set) != 1 || !strings.Contains(set[0], "newest 5 of 20") {
		t.Errorf("%q", set)
	}
}

// The version before kept its snapshot under another name, and finds it again after a rollback.
func TestSnapshotOfTheVersionBefore(t *testing.T) {
	f := newFixture(t)
	for n := range 5 {
		f.record(observe(redis, n, 1<<20, "openat"))
	}
	f.reopen()
	f.store.Close()
	before, after := filepath.Join(f.dir, snapshotName2+".snapshot"), filepath.Join(f.dir, snapshotName+".snapshot")
	if err := os.Rename(after, before); err != nil {
		t.Fatal(err)
	}
	f.open()
	if f.unsaved != 0 || f.Stats().Runs != 5 || len(f.SetAside()) != 0 {
		t.Errorf("%d runs, %d of them read one by one; set aside: %q", f.Stats().Runs, f.unsaved, f.SetAside())
	}
	f.record(observe(redis, 5, 1<<20, "openat"))
	f.reopen()
	for _, path := range []string{before, after} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
