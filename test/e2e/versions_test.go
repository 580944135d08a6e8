package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestVersions runs the same real things under every containerd in use, each beside the stock shim of that version:
// Debian's 1.6.20 with runc 1.1.5, 1.7.32, 2.0.5, 2.2.1 and the one Forefend is built on.
func TestVersions(t *testing.T) {
	for _, version := range harness.Engines() {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, harness.WithContainerd(version))
			same := func(name string, f func(*testing.T, *host, string)) {
				t.Run(name, func(t *testing.T) { both(t, func(t *testing.T, r string) { f(t, h, r) }) })
			}
			if h.old() { // for the default one TestLifecycle and its neighbours do this, and more
				t.Run("run", func(t *testing.T) { runsLikeStock(t, h) })
				same("detached", detached)
				same("signals", signals)
				same("pause", pauses)
				t.Run("metrics", func(t *testing.T) { metrics(t, h) })
				same("stdin", stdin)
				same("tty", terminal)
				same("exec tty", execTerminal)
				t.Run("events", func(t *testing.T) { publishesLikeStock(t, h) })
				t.Run("update", func(t *testing.T) { updateIsMerged(t, h) })
				t.Run("user namespace", func(t *testing.T) { userNamespace(t, h) })
			}
			t.Run("protocol", func(t *testing.T) { speaksLikeStock(t, h) })
			same("processes", processes)
			same("delete by force", deleteByForce)
			t.Run("checkpoint", func(t *testing.T) { refusesCheckpoint(t, h) })
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				t.Run("containerd ended by "+sig.String(), func(t *testing.T) {
					if want, got := outlivesContainerd(t, h, stock, sig), outlivesContainerd(t, h, forefend, sig); got != want {
						t.Errorf("of containers that ended meanwhile is known:\n%s\nstock:\n%s", got, want)
					}
				})
			}
			t.Run("shim killed", func(t *testing.T) { killedShimLeavesNothing(t, h) })
		})
	}
}

// old tells whether this host's containerd is not the one Forefend is built on.
func (h *host) old() bool { return h.EngineDir() != h.BinDir }

// bundle is a path below a container's bundle.
func (h *host) bundle(id, name string) string {
	return fmt.Sprintf("%s/state/io.containerd.runtime.v2.task/%s/%s/%s", h.Dir, h.Namespace, id, name)
}

// speaksLikeStock compares what containerd noted of a shim: with which version of the task API it talks to it, and
// where it finds it again.
func speaksLikeStock(t *testing.T, h *host) {
	noted := make(map[string][]string)
	for _, runtime := range []string{stock, forefend} {
		id := h.start(t, sh("sleep 1000").under(runtime))
		for _, name := range []string{"bootstrap.json", "address"} {
			text, err := os.ReadFile(h.bundle(id, name))
			if err != nil {
				continue
			}
			socket := strings.Index(string(text), "unix://")
			if socket < 0 {
				t.Errorf("%s of %s: %q", name, runtime, text)
				continue
			}
			before, after := string(text[:socket]), string(text[socket:])
			_, after, _ = strings.Cut(after, `"`)
			noted[runtime] = append(noted[runtime], name+": "+before+"…"+after)
		}
	}
	// The address alone, where stock has none, lets a containerd before 2.0 find the shim after a downgrade.
	for _, line := range noted[stock] {
		if !strings.Contains(strings.Join(noted[forefend], "\n"), line) {
			t.Errorf("containerd noted %q, of the stock shim %q", noted[forefend], noted[stock])
		}
	}
	if len(noted[stock]) == 0 {
		t.Error("containerd noted nothing of the stock shim")
	}
}

// processes compares what containerd lists with what runs.
func processes(t *testing.T, h *host, runtime string) {
	id := h.start(t, sh("sleep 1000 & sleep 1001 & wait").under(runtime))
	task := h.task(t, id)
	eventually(t, "three processes", func() bool {
		found, err := task.Pids(h.context(t))
		if err != nil {
			t.Fatal(err)
		}
		return len(found) == 3
	})
	found, err := task.Pids(h.context(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid))
		if err != nil || !strings.Contains(string(text), "sleep") {
			t.Errorf("process %d: %q %v", p.Pid, text, err)
		}
	}
	r := h.Ctr("task", "ls")
	if line := fmt.Sprintf("%d", task.Pid()); r.Check() != nil || !strings.Contains(r.Stdout, line) || !strings.Contains(r.Stdout, "RUNNING") {
		t.Errorf("task ls: %v %q", r.Check(), r.Stdout)
	}
}

// deleteByForce removes a running container, with an exec in it.
func deleteByForce(t *testing.T, h *host, runtime string) {
	id := h.start(t, sh("trap '' TERM; while :; do sleep 0.1; done").under(runtime))
	if err := h.Ctr("task", "exec", "-d", "--exec-id", "e", id, "sleep", "1000").Check(); err != nil {
		t.Fatal(err)
	}
	if r := h.Ctr("task", "rm", "--force", id); r.Check() != nil {
		t.Errorf("%v", r.Check())
	}
	if r := h.Ctr("task", "ls", "-q"); strings.Contains(r.Stdout, id) {
		t.Errorf("still listed: %q", r.Stdout)
	}
	if err := h.Ctr("container", "rm", id).Check(); err != nil {
		t.Error(err)
	}
}

// refusesCheckpoint: the refusal names what to do, and the container goes on.
func refusesCheckpoint(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000"))
	r := h.Ctr("task", "checkpoint", id)
	if r.Code == 0 || !strings.Contains(r.Stderr, "forefend.dev/seccomp=unconfined") {
		t.Errorf("%d %q", r.Code, r.Stderr)
	}
	if r := h.exec(id, "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("%v %q", r.Check(), r.Stdout)
	}
}

// outlivesContainerd ends containerd under a running, a paused, a killed and an ending container. It returns what is
// known afterwards of the two that ended meanwhile: 1.6 knows how, later ones forget the task.
func outlivesContainerd(t *testing.T, h *host, runtime string, sig syscall.Signal) string {
	running := h.start(t, sh("sleep 1000").under(runtime))
	paused := h.start(t, sh("sleep 1000").under(runtime))
	killed := h.start(t, sh("sleep 1000").under(runtime))
	ending := h.start(t, sh("trap 'exit 7' TERM; while :; do sleep 0.05; done").under(runtime))
	if err := h.Ctr("task", "pause", paused).Check(); err != nil {
		t.Fatal(err)
	}
	pids := make(map[string]uint32)
	for _, id := range []string{running, paused, killed, ending} {
		pids[id] = h.task(t, id).Pid()
	}
	gone := func(id string) bool { return syscall.Kill(int(pids[id]), 0) != nil }
	err := h.RestartContainerd(t.Context(), sig, func() {
		for id, end := range map[string]syscall.Signal{killed: syscall.SIGKILL, ending: syscall.SIGTERM} {
			if err := syscall.Kill(int(pids[id]), end); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "the ends", func() bool { return gone(killed) && gone(ending) })
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]client.ProcessStatus{running: client.Running, paused: client.Paused} {
		task := h.task(t, id)
		if s, err := task.Status(h.context(t)); err != nil || s.Status != want || task.Pid() != pids[id] {
			t.Errorf("%s: %v as process %d, want %v as %d: %v", id, s.Status, task.Pid(), want, pids[id], err)
		}
	}
	if err := h.Ctr("task", "resume", paused).Check(); err != nil {
		t.Error(err)
	}
	for _, id := range []string{running, paused} {
		if r := h.exec(id, "echo", "alive"); r.Stdout != "alive\n" {
			t.Errorf("exec: %v %q", r.Check(), r.Stdout)
		}
	}
	known := "killed: " + h.known(t, killed) + "\nended: " + h.known(t, ending)
	for _, id := range []string{running, paused, killed, ending} {
		h.remove(id)
	}
	if r := h.Ctr("task", "ls", "-q"); strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("still listed: %q", r.Stdout)
	}
	return known
}

// known says what containerd knows of a container that is not running.
func (h *host) known(t *testing.T, id string) string {
	t.Helper()
	ctx := h.context(t)
	c, err := h.Client().LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return "no task"
	}
	if err != nil {
		t.Fatal(err)
	}
	var s client.Status
	eventually(t, "the end of "+id, func() bool {
		s, err = task.Status(ctx)
		return err != nil || s.Status == client.Stopped
	})
	return fmt.Sprintf("%v with %d %v", s.Status, s.ExitStatus, err)
}

// killedShimLeavesNothing: containerd runs the shim's delete command, which has the disk alone to go by.
func killedShimLeavesNothing(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000 & sleep 1000; true"))
	if err := h.Ctr("task", "exec", "-d", "--exec-id", "e", id, "sleep", "1000").Check(); err != nil {
		t.Fatal(err)
	}
	h.killShim(t, id)
	eventually(t, "no trace of it", func() bool { return h.traceless(t, id) })
	var again harness.Result
	eventually(t, "a turn for the next container of this id", func() bool {
		h.remove(id)
		again = h.run(sh("echo again").named(id))
		return !strings.Contains(again.Stderr, "already exists") // containerd 1.6 forgets the old one when all is cleaned up
	})
	if again.Check() != nil || again.Stdout != "again\n" {
		t.Errorf("the next container of this id: %q, %v", again.Stdout, again.Check())
	}
	h.remove(id)
	h.noLeaks(t)
}
