package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// daemons are the node daemons of this environment, and whoever is starting one.
func (h *host) daemons(t testing.TB) []int {
	t.Helper()
	pids, err := h.Pids("forefend", "daemon")
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// killDaemons ends every daemon there is, by SIGKILL.
func (h *host) killDaemons(t testing.TB) {
	t.Helper()
	eventually(t, "the end of the daemon", func() bool {
		pids := h.daemons(t)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
}

// TestDaemonIsApart checks where the daemon lives once a shim has started it.
func TestDaemonIsApart(t *testing.T) {
	h := newHost(t)
	h.mustRun(t, sh("true"))
	pids := h.daemons(t)
	if len(pids) != 1 {
		t.Fatalf("daemons %v", pids)
	}
	proc := func(name string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pids[0], name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for line := range strings.Lines(proc("cgroup")) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); !strings.HasPrefix(f[2], "/forefend-daemon-") && f[1] != "" {
			t.Errorf("cgroup %s", strings.TrimSpace(line))
		}
	}
	for variable := range strings.SplitSeq(strings.TrimRight(proc("environ"), "\x00"), "\x00") {
		if name, _, _ := strings.Cut(variable, "="); !slices.Contains([]string{"PATH", "HOME", "FOREFEND_CONFIG"}, name) {
			t.Errorf("environment has %q", variable)
		}
	}
	if stat := strings.Fields(proc("stat")); stat[5] != fmt.Sprint(pids[0]) && stat[6] != "0" {
		t.Errorf("session %s, terminal %s", stat[5], stat[6])
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pids[0]))
	if err != nil || len(fds) == 0 {
		t.Fatal(fds, err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fd)
		foreign := strings.HasPrefix(target, "/") && !strings.HasPrefix(target, h.root()) && !strings.HasPrefix(target, h.state()) && target != "/dev/null"
		if foreign && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/") || strings.HasPrefix(target, "pipe:") {
			t.Errorf("descriptor %s is %s", filepath.Base(fd), target)
		}
	}
	t.Run("single", func(t *testing.T) {
		r := h.Forefend("daemon")
		if r.Code != 1 || !strings.Contains(r.Stderr, "another forefend daemon") {
			t.Errorf("a second daemon: %d %q", r.Code, r.Stderr)
		}
		if now := h.daemons(t); !slices.Equal(now, pids) {
			t.Errorf("daemons %v, were %v", now, pids)
		}
	})
	t.Run("small", func(t *testing.T) {
		var doctor struct{ Daemon struct{ RSS int64 } }
		h.ask(t, &doctor, "doctor")
		if rss := doctor.Daemon.RSS; rss == 0 || rss > 60<<20 {
			t.Errorf("resident memory on a fresh node: %d", rss)
		}
	})
	t.Run("root only", func(t *testing.T) {
		info, err := os.Stat(h.state("forefend.sock"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket %v %v", info.Mode(), err)
		}
	})
}

// TestDaemonKilled kills the daemon at every step of a container's life.
func TestDaemonKilled(t *testing.T) {
	h := newHost(t)
	t.Run("at each step", func(t *testing.T) { killedAtEachStep(t, h) })
	t.Run("at any time", func(t *testing.T) { killedAtAnyTime(t, h) })
	t.Run("under a running container", func(t *testing.T) { killedUnderContainer(t, h) })
	t.Run("while a container ends", func(t *testing.T) { spooledRunsAreTakenIn(t, h) })
}

// moment says when, relative to a step, the daemon is killed.
type moment string

const (
	before moment = "before"
	during moment = "during"
	after  moment = "after"
)

func killedAtEachStep(t *testing.T, h *host) {
	for _, step := range []string{"create", "start", "delete"} {
		for _, m := range []moment{before, during, after} {
			t.Run(string(m)+" "+step, func(t *testing.T) {
				at := func(now string, act func() error) {
					t.Helper()
					if err := h.killing(t, now == step, m, act); err != nil {
						t.Fatalf("%s: %v", now, err)
					}
				}
				lifeInSteps(t, h, at)
			})
		}
	}
}

// killing does act, with the daemon killed at the moment m when due.
func (h *host) killing(t *testing.T, due bool, m moment, act func() error) error {
	if !due {
		return act()
	}
	switch m {
	case before:
		h.killDaemons(t)
	case during:
		ctx, stop := context.WithCancel(t.Context())
		var killer sync.WaitGroup
		killer.Go(func() {
			for ctx.Err() == nil { // whatever comes up during the step is killed too
				for _, pid := range h.daemons(t) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		})
		defer killer.Wait()
		defer stop()
	}
	err := act()
	if m == after {
		h.killDaemons(t)
	}
	return err
}

// lifeInSteps takes a container through its life and checks that it was under a policy all the time.
func lifeInSteps(t *testing.T, h *host, at func(step string, act func() error)) {
	log := filepath.Join(h.Dir, "life.log")
	c, err := h.create(t, forefend, func(s spec) {
		s["mounts"] = append(s["mounts"].([]any), map[string]any{"destination": "/probe", "type": "bind", "source": h.Probe(), "options": []any{"rbind", "ro"}})
	}, "/probe", "attack", "keyctl", "ptrace")
	if err != nil {
		t.Fatal(err)
	}
	var task client.Task
	ctx := h.context(t)
	at("create", func() (err error) { task, err = c.NewTask(ctx, cio.LogFile(log)); return err })
	exits, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at("start", func() error { return task.Start(ctx) })
	if s := <-exits; s.ExitCode() != 0 {
		t.Errorf("exit status %d %v", s.ExitCode(), s.Error())
	}
	at("delete", func() error { _, err := task.Delete(ctx); return err })
	if out, err := os.ReadFile(log); err != nil || string(out) != "ptrace: EPERM\nkeyctl: EPERM\n" {
		t.Errorf("verdicts %q %v", out, err)
	}
	_ = os.Remove(log)
}

// killedAtAnyTime kills at random moments of many short lives. No run may fail, go unpoliced, or be forgotten.
func killedAtAnyTime(t *testing.T, h *host) {
	const seed, runs = 20260101, 15
	random := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)
	c := probe("attack", "--json", "keyctl", "ptrace")
	h.mustRun(t, c)
	eventually(t, "a sealed policy", func() bool { files, _ := filepath.Glob(h.root("sealed", "0-*")); return len(files) >= 2 })
	for range runs - 1 {
		delay := time.Duration(random.Int64N(int64(500 * time.Millisecond)))
		killed := make(chan struct{})
		timer := time.AfterFunc(delay, func() {
			defer close(killed)
			for _, pid := range h.daemons(t) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
		if v := h.verdicts(t, c); v["keyctl"] != "EPERM" || v["ptrace"] != "EPERM" {
			t.Errorf("killed after %v: %v", delay, v)
		}
		if !timer.Stop() {
			<-killed
		}
	}
	h.mustRun(t, sh("true")) // starts a daemon, if there is none
	if pids := h.daemons(t); len(pids) != 1 {
		t.Errorf("daemons %v", pids)
	}
	row, kept := workloadRow{}, []run(nil)
	if !within(15*time.Second, func() bool {
		row, kept = h.history(t, "/probe attack --json keyctl ptrace")
		return row.Runs == runs && distinct(kept) == runs && !slices.ContainsFunc(kept, func(r run) bool { return !r.Final })
	}) {
		t.Errorf("the history has %d runs, %d in detail, of %d: %s", row.Runs, len(kept), runs, described(kept))
	}
}

// distinct counts runs: one whose acknowledgement the kill swallowed was sent twice, and may be on disk twice.
func distinct(runs []run) int {
	seen := make(map[string]bool)
	for _, r := range runs {
		seen[r.Run] = true
	}
	return len(seen)
}

func described(runs []run) string {
	var out []string
	for _, r := range runs {
		out = append(out, fmt.Sprintf("%s final %v", r.Run, r.Final))
	}
	return strings.Join(out, ", ")
}

func killedUnderContainer(t *testing.T, h *host) {
	id := h.start(t, sh("while [ ! -e /tmp/go ]; do sleep 0.05; done; /probe attack keyctl > /tmp/verdict; sleep 1000",
		h.withProbe(), annotate("syscalls.deny", "rmdir"), "--memory-limit=134217728"))
	h.killDaemons(t)
	if r := h.exec(id, "/probe", "attack", "keyctl"); r.Stdout != "keyctl: EPERM\n" {
		t.Errorf("an exec without a daemon: %q %q", r.Stdout, r.Stderr)
	}
	if r := h.exec(id, "rmdir", "/home"); r.Code == 0 {
		t.Error("an exec without a daemon may make the call that is denied")
	}
	if err := h.exec(id, "touch", "/tmp/go").Check(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container's own verdict", func() bool { return h.exec(id, "cat", "/tmp/verdict").Stdout == "keyctl: EPERM\n" })
	if err := h.update(t, id, memory(64<<20)); err != nil {
		t.Errorf("update without a daemon: %v", err)
	}
	if pids := h.daemons(t); len(pids) != 0 {
		t.Errorf("something started a daemon without need: %v", pids)
	}
	if r := h.Forefend("ps"); r.Code != 3 {
		t.Errorf("ps without a daemon: %d", r.Code)
	}
	h.mustRun(t, sh("true"))
	row := h.row(t, id)
	if row.PID != int(h.task(t, id).Pid()) || row.Limits.Memory != 64<<20 {
		t.Errorf("the new daemon knows %+v", row)
	}
	d := h.explain(t, id)
	d.want(t, "memory", "64 MiB", "request")
	d.want(t, "syscalls/rmdir", "deny", "request")
	if d.Revision != 2 {
		t.Errorf("revision %d", d.Revision)
	}
	// What was refused meanwhile is told later.
	h.sawCall(t, id, "denied", "keyctl")
	h.sawCall(t, id, "denied", "rmdir")
}

func spooledRunsAreTakenIn(t *testing.T, h *host) {
	id := h.start(t, sh(": spooled; sleep 1000"))
	h.killDaemons(t)
	h.remove(id)
	spooled, err := filepath.Glob(h.root("spool", "*.json"))
	if err != nil || len(spooled) != 1 {
		t.Fatalf("spool %v %v", spooled, err)
	}
	h.mustRun(t, sh("true"))
	eventually(t, "the spooled run in the history", func() bool {
		row, runs := h.history(t, ": spooled;")
		return row.Runs == 1 && len(runs) == 1 && runs[0].Final && runs[0].Exit.Status == 137
	})
	eventually(t, "an empty spool", func() bool { left, _ := filepath.Glob(h.root("spool", "*")); return len(left) == 0 })
}

// TestDaemonUnstartable checks on_unavailable, with a daemon that cannot come up.
func TestDaemonUnstartable(t *testing.T) {
	h := newHost(t)
	known := sh(`: known; eval "$STEP"`, h.withProbe(), annotate("mode", "enforce"))
	for range 5 {
		h.mustRun(t, known.with("--env=STEP=sleep 0.1"))
	}
	h.killDaemons(t)
	lock := h.state("daemon.lock")
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Run("last-known", func(t *testing.T) {
		if r := h.run(known.with("--env=STEP=rmdir /home")); r.Code == 0 {
			t.Error("the sealed policy is not in force")
		}
		if v := h.verdicts(t, probe("attack", "--json", "keyctl", "ptrace")); v["keyctl"] != "EPERM" || v["ptrace"] != "EPERM" {
			t.Errorf("an unknown workload: %v", v)
		}
	})
	one, other := h.start(t, known.with("--env=STEP=sleep 1000")), h.start(t, sh("sleep 1000"))
	h.siteSays(t, `on_unavailable = "closed"`)
	t.Run("closed", func(t *testing.T) {
		id := h.newID("closed")
		r := h.run(sh("echo ran").named(id))
		if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, "on_unavailable") {
			t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		h.Ctr("container", "rm", id)
	})
	h.siteSays(t, `on_unavailable = "open"`)
	t.Run("open", func(t *testing.T) {
		if out := h.mustRun(t, sh("grep ^Seccomp: /proc/self/status")); out != "Seccomp:\t0\n" {
			t.Errorf("not as requested: %q", out)
		}
	})
	h.siteSays(t, "")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	h.mustRun(t, sh("true"))
	for id, by := range map[string]string{one: "last-known", other: "site-default"} {
		if d, row := h.explain(t, id), h.row(t, id); d.Availability != by || row.By != by || len(d.Notes) == 0 {
			t.Errorf("%s: availability %q, ps %q, notes %q", id, d.Availability, row.By, d.Notes)
		}
	}
	if !h.row(t, one).Sealed || h.row(t, other).Sealed {
		t.Errorf("sealed: %v and %v", h.row(t, one).Sealed, h.row(t, other).Sealed)
	}
}

// siteSays rewrites the configuration that shims and daemons read from now on.
func (h *host) siteSays(t testing.TB, toml string) {
	t.Helper()
	text := fmt.Sprintf("root = %q\nstate = %q\n%s\n", h.root(), h.state(), toml)
	if err := os.WriteFile(h.ConfigPath, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
