package crash

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/test/e2e/harness"
)

// resident is a container that lives through a restart. It does what its standard input says, line by line.
type resident struct {
	id      string
	pid     int
	created time.Time
	input   *io.PipeWriter
	output  chan string // lines
}

const (
	residents     = 20
	residentLimit = 64 << 20
	// exitsOnTerm ends with 40 on SIGTERM, with 41 at the end of its input, and else runs what it reads.
	residentScript = `trap 'exit 40' TERM; while read line; do eval "$line"; done; exit 41`
)

// reside starts a resident whose standard streams this process holds.
func (h *host) reside(t *testing.T, runtime string) *resident {
	t.Helper()
	ctx := h.Context(t.Context())
	c := h.Client()
	image, err := c.GetImage(ctx, harness.Image("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	r := &resident{id: h.newID(strings.Split(runtime, ".")[2]), output: make(chan string, 64)}
	container, err := c.NewContainer(ctx, r.id, client.WithImage(image), client.WithNewSnapshot(r.id, image), client.WithRuntime(runtime, nil),
		client.WithNewSpec(oci.WithImageConfigArgs(image, []string{"sh", "-c", residentScript}), oci.WithMemoryLimit(residentLimit),
			oci.WithMounts([]specs.Mount{{Destination: "/probe", Type: "bind", Source: h.Probe(), Options: []string{"rbind", "ro"}}})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.remove(t, r.id) })
	in, input := io.Pipe()
	output, out := io.Pipe()
	r.input = input
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			r.output <- lines.Text()
		}
	}()
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(in, out, io.Discard), cio.WithFIFODir(filepath.Join(h.Dir, "fifo"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r.pid, r.created = int(task.Pid()), time.Now()
	return r
}

// resideAll starts n residents with names that tell their runtime.
func (h *host) resideAll(t *testing.T, runtime string, n int) []*resident {
	t.Helper()
	var all []*resident
	for range n {
		r := h.reside(t, runtime)
		r.says(t, "echo before", "before")
		all = append(all, r)
	}
	return all
}

// says has the container run a line and wants to read what it writes.
func (r *resident) says(t *testing.T, line, want string) {
	t.Helper()
	if _, err := io.WriteString(r.input, line+"\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-r.output:
		if got != want {
			t.Errorf("%s: %q says %q, want %q", r.id, line, got, want)
		}
	case <-time.After(cleanWithin):
		t.Errorf("%s: %q says nothing", r.id, line)
	}
}

// stamped is how long after a process is gone its shim may take to note when it ended: it reads the clock after it reaped.
const stamped = time.Second

// TestContainerdRestarted restarts containerd under running containers: they, their streams, limits and supervision
// stay, and what ended meanwhile is reported as it was.
func TestContainerdRestarted(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			h := newHost(t)
			stay := h.resideAll(t, forefend, residents)
			ended := map[string][]*resident{forefend: h.resideAll(t, forefend, 3), stock: h.resideAll(t, stock, 3)}
			var down, up time.Time
			if err := h.RestartContainerd(t.Context(), sig, func() {
				down = time.Now()
				for _, three := range ended {
					end(t, three)
				}
				time.Sleep(stamped)
				up = time.Now()
			}); err != nil {
				t.Fatal(err)
			}
			h.allThere(t, stay)
			h.exitsKept(t, ended, down, up)
			h.daemonKnows(t, stay)
		})
	}
}

// end ends one container by a signal, one by itself, one by the end of its input, and waits until they have.
func end(t *testing.T, three []*resident) {
	t.Helper()
	if err := unix.Kill(three[0].pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(three[1].input, "exit 42\n"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(three[2].pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, r := range three {
		if !eventually(cleanWithin, func() bool { return !exists(fmt.Sprintf("/proc/%d", r.pid)) }) {
			t.Errorf("%s does not end", r.id)
		}
	}
}

// exitsKept checks what became of the containers of end. containerd deletes a task that has no process left when it
// comes back, under any runtime, before anyone can ask or subscribe: what it was told then, code and time, nobody sees.
// Forefend's history has them.
func (h *host) exitsKept(t *testing.T, under map[string][]*resident, down, up time.Time) {
	t.Helper()
	listed := strings.Fields(h.Ctr("task", "ls", "-q").Stdout)
	for runtime, three := range under {
		for _, r := range three {
			if slices.Contains(listed, r.id) {
				t.Errorf("%s: %s, which ended, is still a task", runtime, r.id)
			}
		}
	}
	var runs []run
	if !eventually(cleanWithin, func() bool { _, runs = h.history(t, "trap 'exit 40'"); return finals(runs) == 3 }) {
		t.Errorf("the history has %+v", runs)
	}
	for i, want := range []uint32{40, 42, 137} {
		id := under[forefend][i].id
		at := slices.IndexFunc(runs, func(r run) bool { return r.ID.Container == id })
		if at < 0 || runs[at].Exit.Status != want || runs[at].Exit.Lost || runs[at].Ended.Before(down) || runs[at].Ended.After(up) {
			t.Errorf("%s: want exit status %d between %v and %v, the history has %+v", id, want, down, up, runs)
		}
	}
}

func finals(runs []run) (n int) {
	for _, r := range runs {
		if r.Final {
			n++
		}
	}
	return n
}

// allThere checks that containers are listed, run, can be entered, and are under limits and supervision.
func (h *host) allThere(t *testing.T, all []*resident) {
	t.Helper()
	listed := strings.Fields(h.Ctr("task", "ls", "-q").Stdout)
	var checks sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, r := range all {
		if !slices.Contains(listed, r.id) {
			t.Errorf("%s is not listed", r.id)
		}
		r.says(t, "echo after", "after")
		r.says(t, "/probe attack keyctl", strings.TrimSpace(denied))
		checks.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if out := h.Ctr("task", "exec", "--exec-id", "after", r.id, "/probe", "attack", "keyctl"); out.Stdout != denied {
				t.Errorf("%s: an exec says %q, %v", r.id, out.Stdout, out.Check())
			}
			group, err := cgroup.Of(r.pid)
			if err != nil {
				t.Error(err)
				return
			}
			if limits, err := group.Limits(); err != nil || limits.Memory != residentLimit {
				t.Errorf("%s: limits %+v, %v", r.id, limits, err)
			}
		})
	}
	checks.Wait()
}

// daemonKnows checks what the daemon says about running containers.
func (h *host) daemonKnows(t *testing.T, all []*resident) {
	t.Helper()
	var out struct {
		Containers []struct {
			ID  struct{ Container string }
			PID int
		}
	}
	h.ask(t, &out, "ps")
	pids := make(map[string]int)
	for _, c := range out.Containers {
		pids[c.ID.Container] = c.PID
	}
	for _, r := range all {
		if pids[r.id] != r.pid {
			t.Errorf("ps has process %d of %s, which is %d", pids[r.id], r.id, r.pid)
		}
		var d struct {
			Availability string
			Effective    struct {
				Fields []struct{ Key, Text, Author string }
			}
		}
		h.ask(t, &d, "explain", r.id)
		if i := slices.IndexFunc(d.Effective.Fields, func(f struct{ Key, Text, Author string }) bool { return f.Key == "memory" }); i < 0 ||
			d.Effective.Fields[i].Text != "64 MiB" || d.Availability != "daemon" {
			t.Errorf("explain %s: %+v", r.id, d)
		}
	}
	if len(pids) != len(all) {
		t.Errorf("ps lists %d containers of %d", len(pids), len(all))
	}
}

// TestDaemonRestarted ends the daemon under running containers: the next one knows them all.
func TestDaemonRestarted(t *testing.T) {
	h := newHost(t)
	all := h.resideAll(t, forefend, residents)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			h.endDaemon(t, sig)
			for _, r := range all { // nobody notices
				r.says(t, "/probe attack keyctl", strings.TrimSpace(denied))
			}
			h.warm(t)
			h.daemonKnows(t, all)
			h.allThere(t, all)
		})
	}
	for _, r := range all { // their ends find their way to the daemon of now
		if err := h.Ctr("task", "kill", "-s", "SIGKILL", r.id).Check(); err != nil {
			t.Error(err)
		}
	}
	if !eventually(cleanWithin, func() bool {
		counted, runs := h.history(t, "trap 'exit 40'")
		return counted == residents && len(runs) == residents && !slices.ContainsFunc(runs, func(r run) bool { return !r.Final || r.Exit.Status != 137 })
	}) {
		counted, runs := h.history(t, "trap 'exit 40'")
		t.Errorf("%d runs were counted of %d: %+v", counted, residents, runs)
	}
}

// endDaemon ends the daemon and waits until it has.
func (h *host) endDaemon(t testing.TB, sig syscall.Signal) {
	t.Helper()
	pids, err := h.Pids("forefend", "daemon")
	if err != nil || len(pids) != 1 {
		t.Fatalf("daemons: %v %v", pids, err)
	}
	if err := unix.Kill(pids[0], sig); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanWithin)
	defer cancel()
	if !eventually(cleanWithin, func() bool { return !exists(fmt.Sprintf("/proc/%d", pids[0])) || ctx.Err() != nil }) {
		t.Fatalf("the daemon does not end on %v", sig)
	}
}

// TestRestartAfterHalfADelete restarts containerd over a shim whose container runc has forgotten and nobody else has:
// runc was killed at the end of a delete. Nothing of the two may stay.
func TestRestartAfterHalfADelete(t *testing.T) {
	h := newHost(t)
	id := h.newID("half")
	l := &life{h: h, runtime: forefend, id: id, name: "life of " + id}
	tr := h.trace(t, plan{Step: "runc delete ends", Victim: runc, ID: id, Dir: h.Dir, Containerd: h.containerdPid(t)})
	how := l.run(t)
	if hit, said := tr.stop(); !hit || how.failed != opDelete {
		t.Fatalf("%q failed: %v; the tracer says %q", how.failed, how.err, said)
	}
	if err := h.RestartContainerd(t.Context(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if listed := h.Ctr("task", "ls", "-q").Stdout; strings.Contains(listed, id) {
		t.Errorf("containerd lists a task without a process: %q", listed)
	}
	h.remove(t, id)
	h.settled(t, cleanWithin)
}
