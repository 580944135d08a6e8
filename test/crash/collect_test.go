package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/test/e2e/harness"
)

// TestDaemonCollects kills shims while there is no containerd to clean up after them: the daemon does it, once nothing
// of the container runs any more, and leaves alone what is still running.
func TestDaemonCollects(t *testing.T) {
	h := newHost(t, harness.WithConfig(`collect = "1s"`))
	var all []*resident
	for range 3 {
		r := h.sleeper(t)
		all = append(all, r)
		h.awaitReport(t, "sleep of "+r.id)
		if !exists(h.state("c", h.Namespace, r.id, "record.json")) {
			t.Fatalf("no record of %s", r.id)
		}
	}
	var groups []cgroup.Group
	for _, r := range all {
		g, err := cgroup.Of(r.pid)
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, g)
	}
	half := []string{h.half(t, h.root("sealed", ".new-1")), h.half(t, h.root("spool", ".1")), h.half(t, h.state("c", h.Namespace, "never", ".new-1"))}
	if err := h.RestartContainerd(t.Context(), syscall.SIGKILL, func() {
		for _, r := range all {
			h.killShim(t, r.id)
		}
		for _, r := range all[1:] {
			if err := unix.Kill(r.pid, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		began := time.Now()
		if !eventually(cleanWithin, func() bool {
			records, _ := filepath.Glob(h.state("c", "*", "*"))
			sockets, _ := filepath.Glob(h.state("n", "*"))
			gone := !groups[1].Exists() && !groups[2].Exists() && !slices.ContainsFunc(half, exists)
			return gone && len(records) == 1 && len(sockets) == 1
		}) {
			t.Errorf("the daemon does not collect: %v, half-written %v", h.leftovers(t), half)
		}
		t.Logf("collected after %v", time.Since(began).Round(time.Millisecond))
		if !groups[0].Exists() || !exists(fmt.Sprintf("/proc/%d", all[0].pid)) {
			t.Error("the daemon touched a container that runs")
		}
		for i, r := range all {
			if _, runs := h.history(t, "sleep of "+r.id); i > 0 && (len(runs) != 1 || !runs[0].Exit.Lost) || i == 0 && len(runs) != 0 {
				t.Errorf("the history of %s has %+v", r.id, runs)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		h.endsByItself(t, r.id)
		h.remove(t, r.id)
	}
	h.settled(t, cleanWithin)
	for _, r := range all {
		again := h.Ctr("run", "--rm", "--runtime", forefend, harness.Image("busybox"), r.id, "echo", "again")
		if err := again.Check(); err != nil || again.Stdout != "again\n" {
			t.Errorf("the next container of this name: %q %v", again.Stdout, err)
		}
	}
}

// sleeper starts a container that needs nobody.
func (h *host) sleeper(t *testing.T) *resident {
	t.Helper()
	r := &resident{id: h.newID("sleeper")}
	t.Cleanup(func() { h.remove(t, r.id) })
	if err := h.Ctr("run", "-d", "--null-io", "--runtime", forefend, harness.Image("busybox"), r.id, "sh", "-c", ": sleep of "+r.id+"; sleep 1000; true").Check(); err != nil {
		t.Fatal(err)
	}
	ctx := h.Context(t.Context())
	c, err := h.Client().LoadContainer(ctx, r.id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.pid = int(task.Pid())
	return r
}

// half makes a file as a writer that died leaves it, long enough ago.
func (h *host) half(t *testing.T, path string) string {
	t.Helper()
	ago := time.Now().Add(-time.Hour)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		if err := os.Chtimes(p, ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// killShim ends the shim of a container by SIGKILL.
func (h *host) killShim(t testing.TB, id string) {
	t.Helper()
	pids, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(pids) != 1 {
		t.Errorf("shims of %s: %v %v", id, pids, err)
		return
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
