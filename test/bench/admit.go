package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/turn"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/e2e/harness"
)

// asker sends the daemon what a shim would send it, each time for a new container of a known workload, which never starts.
type asker struct {
	client *api.Client
	node   *node
	next   int
	turn   turn.Brief // as a shim has it
	late   int        // answers for which a source of evidence was not in time
}

// newAsker connects to the daemon.
func (n *node) newAsker(ctx context.Context) (*asker, error) {
	c, err := api.Dial(ctx, filepath.Join(n.Dir, "run", "forefend.sock"))
	return &asker{client: c, node: n}, err
}

// admission makes a container and returns the question about it, and what removes the container.
func (n *node) admission(ctx context.Context, id string, args []string) (req api.AdmitRequest, remove func() error, err error) {
	ctx = n.Context(ctx)
	image, err := n.Client().GetImage(ctx, harness.Image("busybox"))
	if err != nil {
		return req, nil, err
	}
	c, err := n.Client().NewContainer(ctx, id, client.WithImage(image), client.WithNewSnapshot(id, image), client.WithRuntime(forefend.name, nil),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(args...)))
	if err != nil {
		return req, nil, err
	}
	remove = func() error { return c.Delete(context.WithoutCancel(ctx), client.WithSnapshotCleanup) }
	info, err := c.Info(ctx)
	if err != nil {
		return req, remove, err
	}
	mounts, err := n.Client().SnapshotService(info.Snapshotter).Mounts(ctx, info.SnapshotKey)
	if err != nil {
		return req, remove, err
	}
	var layers []rootfs.Mount
	for _, m := range mounts {
		layers = append(layers, rootfs.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return req, remove, err
	}
	req = api.AdmitRequest{Version: api.Version, Spec: lean(spec), ListenerPath: filepath.Join(n.Dir, "run", "n", id), Kin: true}
	req.Facts = workload.Facts{
		ID: workload.ID{Namespace: n.Namespace, Container: id}, Run: "bench-" + id, Kind: workload.KindContainer,
		Args: args, Path: "/usr/bin:/bin", Cwd: "/", Group: n.Namespace, Containerd: n.Address,
		Rootfs: rootfs.Layers(layers, filepath.Join(n.Dir, "none")), Bundle: filepath.Join(n.Dir, "none"),
	}
	return req, remove, nil
}

// lean leaves in a spec what the shim sends.
func lean(s *specs.Spec) specs.Spec {
	p, l := s.Process, s.Linux
	return specs.Spec{
		Version: s.Version, Root: &specs.Root{Readonly: s.Root.Readonly},
		Process: &specs.Process{User: p.User, Cwd: p.Cwd, Capabilities: p.Capabilities, Rlimits: p.Rlimits, NoNewPrivileges: p.NoNewPrivileges},
		Linux: &specs.Linux{Resources: l.Resources, Seccomp: l.Seccomp, Namespaces: l.Namespaces, MaskedPaths: l.MaskedPaths,
			ReadonlyPaths: l.ReadonlyPaths},
	}
}

// shimStart is how long after a container's creation its shim asks, at the least: it has to be started.
const shimStart = 10 * time.Millisecond

// ask asks once and returns how long the answer took, in milliseconds: from before the request is encoded until the
// answer is decoded.
func (a *asker) ask(ctx context.Context) (ms float64, err error) {
	req, remove, err := a.node.admission(ctx, fmt.Sprintf("asked-%d", a.next), askable(a.next%ofAsked))
	a.next++
	if remove != nil {
		defer func() {
			if failed := remove(); err == nil {
				err = failed
			}
		}()
	}
	runtime.GC() // a shim that asks is young, and collects no garbage yet
	if err == nil {
		err = wait(ctx, shimStart)
	}
	if err != nil {
		return 0, err
	}
	var d api.Decision
	var took time.Duration
	begin := time.Now()
	a.turn.Do(func() {
		d, err = a.client.Admit(ctx, req)
		took = time.Since(begin)
	})
	late := slices.ContainsFunc(d.Sources, func(s api.Source) bool { return s.Status == api.SourceLate })
	switch {
	case late:
		a.late++
	case err == nil && (d.Availability != api.ByDaemon || d.Prediction.Runs < runsEach):
		err = fmt.Errorf("decided by %s from %d runs: %+v", d.Availability, d.Prediction.Runs, d.Sources)
	}
	return float64(took.Nanoseconds()) / 1e6, err
}

// warm asks until every command has been scanned, every program hashed and every cache filled.
func (a *asker) warm(ctx context.Context) error {
	const most = 100 // times each command
	for known := 0; known < ofAsked; {
		if a.next > most*ofAsked {
			return fmt.Errorf("a source is still late after %d questions", a.next)
		}
		before := a.late
		if _, err := a.ask(ctx); err != nil {
			return err
		}
		if known++; a.late > before {
			known = 0
		}
	}
	a.late = 0
	return nil
}

// series asks n times.
func (a *asker) series(ctx context.Context, n int) ([]float64, error) {
	var out []float64
	for range n {
		took, err := a.ask(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, took)
	}
	return out, nil
}

// crowd starts containers all at once and asks until the last one runs.
func (n *node) crowd(ctx context.Context, a *asker, containers int) (took []float64, ids []string, err error) {
	errs := make([]error, containers)
	var starting sync.WaitGroup
	for i := range containers {
		id := n.id(forefend)
		ids = append(ids, id)
		starting.Go(func() { errs[i] = n.start(ctx, forefend, "busybox", id, nil, askable(i%ofAsked)...) })
	}
	started := make(chan struct{})
	go func() {
		starting.Wait()
		close(started)
	}()
	for {
		one, failed := a.ask(ctx)
		if failed != nil && err == nil {
			err = fmt.Errorf("while containers start: %w", failed)
		}
		took = append(took, one)
		select {
		case <-started:
			for _, e := range errs {
				if err == nil {
					err = e
				}
			}
			return took, ids, err
		default:
		}
	}
}
