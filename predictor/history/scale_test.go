package history

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// The targets of issue 2, part 9.
const (
	mostLoad  = 10 * time.Second
	mostRSS   = 150 << 20
	mostFresh = 60 << 20
)

// TestScale measures, in processes of their own, how long a big history takes to
// load after a crash (snapshot and the runs after it) and when every snapshot
// is lost, and how much memory it needs. FOREFEND_BIG=1 means a million runs of ten
// thousand workloads and takes minutes.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("measures: run without -short")
	}
	runs, workloads, tail := 50_000, 2_000, 1_000
	if os.Getenv("FOREFEND_BIG") == "1" {
		runs, workloads, tail = 1_000_000, 10_000, 2_000
	}
	dir := t.TempDir()
	began := time.Now()
	fill(t, dir, workloads, runs, tail)
	t.Logf("%d runs of %d workloads written in %v, %d MiB on disk", runs, workloads, time.Since(began), diskUsage(t, dir)>>20)
	fresh := measure(t, t.TempDir())
	loaded := measure(t, dir)
	snapshots, err := filepath.Glob(filepath.Join(dir, "*.snapshot*"))
	if err != nil || len(snapshots) == 0 {
		t.Fatalf("%v, %v", snapshots, err)
	}
	for _, f := range snapshots {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	rebuilt := measure(t, dir)
	for _, m := range []struct {
		what string
		measured
	}{{"fresh store", fresh}, {"snapshot and tail", loaded}, {"no snapshot", rebuilt}} {
		t.Logf("%s: load %v, RSS %d MiB (peak %d), runs %d, workloads %d, keys %d, Predict %v", m.what, m.load, m.rss>>20, m.peak>>20, m.runs, m.workloads, m.keys, m.predict)
	}
	if fresh.rss > mostFresh {
		t.Errorf("RSS with a fresh store is %d MiB, at most %d", fresh.rss>>20, mostFresh>>20)
	}
	if loaded.load > mostLoad || loaded.rss > mostRSS || loaded.runs != runs || loaded.workloads != workloads {
		t.Errorf("load %v (at most %v), RSS %d MiB (at most %d), %d runs, %d workloads", loaded.load, mostLoad, loaded.rss>>20, mostRSS>>20, loaded.runs, loaded.workloads)
	}
	if loaded.predict > 100*time.Microsecond {
		t.Errorf("Predict takes %v", loaded.predict)
	}
}

type measured struct {
	load, predict         time.Duration
	rss, peak             int64
	runs, workloads, keys int
}

// measure opens the store in a new process, this test binary, as the daemon would.
func measure(t *testing.T, dir string) (m measured) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLoadAsProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "FOREFEND_LOAD="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, line, _ := strings.Cut(string(out), "MEASURED ")
	if _, err := fmt.Sscan(line, &m.load, &m.predict, &m.rss, &m.peak, &m.runs, &m.workloads, &m.keys); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return m
}

// TestLoadAsProcess is the other process of measure.
func TestLoadAsProcess(t *testing.T) {
	dir := os.Getenv("FOREFEND_LOAD")
	if dir == "" {
		t.Skip("helper of TestScale")
	}
	debug.SetGCPercent(50) // as the daemon does
	began := time.Now()
	ctx := context.Background()
	s, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := Open(ctx, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	load := time.Since(began)
	rss, peak := status("VmRSS:"), status("VmHWM:")
	const n = 1000
	queries := make([]workload.Query, n)
	for i := range queries {
		queries[i] = generated(i).Query()
	}
	predict := time.Hour
	for part := range slices.Chunk(queries, n/10) { // the fastest tenth: others had to share the processor
		began = time.Now()
		for _, q := range part {
			b.Predict(q)
		}
		predict = min(predict, time.Since(began)/time.Duration(len(part)))
	}
	stats := b.Stats()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if set := s.SetAside(); len(set) > 0 {
		t.Errorf("set aside: %v", set)
	}
	fmt.Println("MEASURED", int64(load), int64(predict), rss, peak, stats.Runs, stats.Workloads, stats.Keys)
}

// status reads a size from /proc/self/status.
func status(field string) int64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), field)
	kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10
}

func diskUsage(t *testing.T, dir string) (n int64) {
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, e := d.Info(); e == nil {
				n += info.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fill leaves a store as a daemon does that was killed tail runs after its
// last snapshot. The runs go through the model as Record would take them, and to
// the store in batches: waiting for each would take an hour.
func fill(t *testing.T, dir string, workloads, runs, tail int) {
	t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, dir, store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := Open(ctx, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]store.Entry, 0, 500)
	for i := range runs {
		o := generateRun(i, workloads)
		body, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, store.Entry{Subject: subject(o.Keys[0]), Body: body})
		if i < runs-tail {
			b.model.end(&o, o.Ended)
		}
		if len(batch) < cap(batch) && i != runs-1 && i != runs-tail-1 {
			continue
		}
		if b.seq, err = s.AppendAll(ctx, store.Runs, batch); err != nil {
			t.Fatal(err)
		}
		batch = batch[:0]
		if i == runs-tail-1 {
			if err := b.Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// generated returns workload w: five commands to a repository, three
// workloads to an executable, fifty users.
func generated(w int) workload.Facts {
	return workload.Facts{
		Image:      workload.Image{Repository: fmt.Sprintf("registry.example/team/app-%d", w/5), Digest: fmt.Sprintf("sha256:%064x", w/5)},
		Args:       []string{"/usr/bin/app", "--mode", strconv.Itoa(w)},
		Executable: workload.Executable{Path: "/usr/bin/app", SHA256: fmt.Sprintf("%064x", w/3)},
		User:       fmt.Sprintf("user-%d", w%50), Group: "group",
	}
}

// generateRun returns run i: about sixty system calls, a usage series, some destinations.
func generateRun(i, workloads int) workload.Observation {
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	w := rng.IntN(workloads)
	if i < workloads {
		w = i // each at least once
	}
	f := generated(w)
	o := workload.Observation{
		Version: workload.ObservationVersion, ID: workload.ID{Namespace: "k8s.io", Container: fmt.Sprintf("%064x", i)},
		Run: fmt.Sprintf("%032x", i), Name: f.Name(), Keys: f.Keys(), User: f.User, Group: f.Group, Image: f.Image.Repository + ":latest",
		Started: epoch.Add(time.Duration(i) * time.Second), Final: true, Watched: true, RootfsWrites: workload.No,
	}
	o.Ended = o.Started.Add(time.Minute)
	o.Usage = workload.Usage{MemoryPeak: int64(float64(10<<20+w<<16) * math.Exp(rng.NormFloat64()*0.1)), CPUPeak: rng.Float64(), PIDsPeak: int64(1 + w%40), Samples: 60}
	for s := range 20 {
		o.Usage.Series = append(o.Usage.Series, workload.Point{Seconds: float64(3 * s), Memory: rng.Int64N(o.Usage.MemoryPeak), CPU: rng.Float64(), PIDs: 5})
	}
	o.Syscalls = make(map[string]uint64)
	for s := range 60 {
		o.Syscalls[fmt.Sprintf("syscall_%d", (w*7+s*5)%340)] = 1 + rng.Uint64N(500)
	}
	o.Syscalls[fmt.Sprintf("syscall_%d", rng.IntN(340))]++
	o.Destinations = make(map[string]uint64)
	for d := range 5 {
		o.Destinations[fmt.Sprintf("tcp/10.%d.%d.%d:443", w%7, w%250, d)] = 1
	}
	return o
}
