package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/e2e/harness"
)

// knownWorkloads is how many workloads the daemon knows, and runsEach how many runs of each.
const (
	knownWorkloads = 10_000
	runsEach       = 5
)

// ofBusybox of them are commands of the busybox image, which can be asked for: image and digest are looked up in
// containerd and the program in its root file system, as for every container.
const ofBusybox = 200

// ofAsked of these are asked for: each has a scan of its own.
const ofAsked = 20

// askable is the command of one of those.
func askable(i int) []string { return []string{"sleep", "100000", strconv.Itoa(i)} }

// fill writes a history into the place where the daemon that is started next will look for it. It uses the daemon's
// own store and model; only the waiting for the disk is left out.
func fill(ctx context.Context, n *node) (err error) {
	image, err := n.Client().GetImage(n.Context(ctx), harness.Image("busybox"))
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, filepath.Join(n.Dir, "forefend", "store"), store.Options{Unsynced: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	book, err := history.Open(ctx, s, history.Options{SnapshotEvery: knownWorkloads * runsEach})
	if err != nil {
		return err
	}
	begin := time.Now().Add(-24 * time.Hour)
	for run := range knownWorkloads * runsEach {
		f := someWorkload(run % knownWorkloads)
		if w := run % knownWorkloads; w < ofBusybox {
			f.Image = workload.Image{Repository: "docker.io/library/busybox", Digest: image.Target().Digest.String()}
			f.Args = askable(w)
		}
		if err := book.Record(ctx, someRun(run, f, begin.Add(time.Duration(run)*time.Second))); err != nil {
			return err
		}
	}
	return book.Close()
}

// someWorkload is one of many: five commands to a repository, fifty users.
func someWorkload(w int) workload.Facts {
	return workload.Facts{
		Image: workload.Image{Repository: fmt.Sprintf("registry.example/team/app-%d", w/5), Digest: fmt.Sprintf("sha256:%064x", w/5)},
		Args:  []string{"/usr/bin/app", "--mode", strconv.Itoa(w)}, Executable: workload.Executable{SHA256: fmt.Sprintf("%064x", w/3)},
		User: fmt.Sprintf("user-%d", w%50), Group: "group",
	}
}

// someRun is a run of a minute: sixty system calls, twenty points of usage, five destinations.
func someRun(run int, f workload.Facts, began time.Time) workload.Observation {
	rng := rand.New(rand.NewPCG(uint64(run), 1))
	o := workload.Observation{
		Version: workload.ObservationVersion, ID: workload.ID{Namespace: "default", Container: fmt.Sprintf("%064x", run)},
		Run: fmt.Sprintf("%032x", run), Name: f.Name(), Keys: f.Keys(), User: f.User, Group: f.Group, Image: f.Image.Repository + ":latest",
		Started: began, Ended: began.Add(time.Minute), Final: true, Watched: true, RootfsWrites: workload.No,
		Usage:    workload.Usage{MemoryPeak: 10<<20 + rng.Int64N(90<<20), CPUPeak: rng.Float64(), PIDsPeak: 1 + rng.Int64N(40), Samples: 60},
		Syscalls: make(map[string]uint64), Destinations: make(map[string]uint64),
	}
	for point := range 20 {
		o.Usage.Series = append(o.Usage.Series, workload.Point{Seconds: float64(3 * point), Memory: rng.Int64N(o.Usage.MemoryPeak), CPU: rng.Float64(), PIDs: 5})
	}
	names := seccomp.Names()
	first := len(f.Args[len(f.Args)-1]) * 13 // the calls of a workload are mostly the same in every run
	for i := range 60 {
		o.Syscalls[names[(first+5*i)%len(names)]] = 1 + rng.Uint64N(500)
	}
	for range 5 {
		o.Destinations[fmt.Sprintf("tcp/10.0.%d.%d:443", rng.IntN(4), rng.IntN(250))] = 1
	}
	return o
}
