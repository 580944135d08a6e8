package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
)

// oldSpec is a version of the OCI spec that crun of Debian 12 accepts.
const oldSpec = "1.0.2"

// TestCrun selects another OCI runtime by option, as people do: what works with it under the stock shim works under
// Forefend, and its system calls are watched all the same.
func TestCrun(t *testing.T) {
	h := newHost(t)
	with := &options.Options{BinaryName: h.crun(t)}
	t.Run("spec of containerd 2.4", func(t *testing.T) {
		want := h.runSpecWith(t, stock, with, func(spec) {}, "echo", "ran")
		got := h.runSpecWith(t, forefend, with, func(spec) {}, "echo", "ran")
		for _, id := range []string{want.id, got.id} {
			h.remove(id)
		}
		if fmt.Sprint(got.err) != fmt.Sprint(want.err) || got.output != want.output {
			t.Errorf("%q %v, stock %q %v", got.output, got.err, want.output, want.err)
		}
	})
	older := func(s spec) { s["ociVersion"] = oldSpec }
	t.Run("outcomes", func(t *testing.T) {
		for _, script := range []string{"echo out; echo err >&2; exit 7", "kill -9 $$", "id; pwd; env | sort; ls /; cat /proc/self/limits"} {
			want, got := h.runSpecWith(t, stock, with, older, "sh", "-c", script), h.runSpecWith(t, forefend, with, older, "sh", "-c", script)
			if want.err != nil || got.err != nil || got.output != want.output || got.stderr != want.stderr || got.code != want.code {
				t.Errorf("%s: %+v, stock %+v", script, got, want)
			}
			h.remove(want.id)
			h.remove(got.id)
		}
	})
	both(t, func(t *testing.T, runtime string) {
		c, err := h.createWith(t, runtime, with, older, "sleep", "1000")
		if err != nil {
			t.Fatal(err)
		}
		h.createTask(t, c)
		id := c.ID()
		if err := h.task(t, id).Start(h.context(t)); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"pause", id}, {"resume", id}, {"metrics", id}, {"ps", id}} {
			if err := h.Ctr(append([]string{"task"}, args...)...).Check(); err != nil {
				t.Error(err)
			}
		}
		if err := h.update(t, id, memory(64<<20)); err != nil || h.limit(t, id, "memory") != 64<<20 {
			t.Errorf("update: %v, the kernel has %d", err, h.limit(t, id, "memory"))
		}
		if r := h.exec(id, "sh", "-c", "echo in; exit 3"); r.Stdout != "in\n" || r.Code != 3 {
			t.Errorf("exec: %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		if runtime == forefend {
			watchedUnderCrun(t, h, id)
		}
		exits := h.exits(t, id)
		if err := h.Ctr("task", "kill", "-s", "SIGKILL", id).Check(); err != nil {
			t.Error(err)
		}
		if code := exits(); code != 137 {
			t.Errorf("ended with %d", code)
		}
	})
}

// watchedUnderCrun: crun hands its listeners over, that of the container and one for each exec.
func watchedUnderCrun(t *testing.T, h *host, id string) {
	if r := h.exec(id, "grep", "^Seccomp:", "/proc/self/status"); r.Stdout != "Seccomp:\t2\n" {
		t.Errorf("exec: %q %q", r.Stdout, r.Stderr)
	}
	// Denied by the supervisor, not by the kernel: without a listener it would not exist (ENOSYS).
	if r := h.exec(id, "unshare", "-m", "true"); r.Code == 0 || strings.Contains(r.Stderr, "not implemented") {
		t.Errorf("unshare: %d %q", r.Code, r.Stderr)
	}
	for _, note := range h.explain(t, id).Notes {
		if strings.Contains(note, "watch") {
			t.Errorf("explain: %s", note)
		}
	}
}

// crun is Debian's crun, without the unified hierarchy where that is mounted beside the others: it refuses to run
// when that has a controller.
func (h *host) crun(t *testing.T) string {
	t.Helper()
	const crun, unified = "/usr/bin/crun", "/sys/fs/cgroup/unified"
	if _, err := os.Stat(crun); err != nil {
		t.Fatalf("%v (run make setup-test)", err)
	}
	if _, err := os.Stat(unified); err != nil {
		return crun
	}
	path := h.file(t, "crun", "#!/bin/sh\nexec unshare --mount --propagation slave sh -c 'umount "+unified+" && exec "+crun+" \"$@\"' crun \"$@\"\n")
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
