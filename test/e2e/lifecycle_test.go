package e2e

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
)

// both runs the subtest under the stock shim and under Forefend's: the same assertions hold for both.
func both(t *testing.T, f func(t *testing.T, runtime string)) {
	for _, r := range []string{stock, forefend} {
		t.Run(strings.Split(r, ".")[2], func(t *testing.T) { f(t, r) })
	}
}

func TestLifecycle(t *testing.T) {
	h := newHost(t)
	t.Run("run", func(t *testing.T) { runsLikeStock(t, h) })
	t.Run("detached", func(t *testing.T) { both(t, func(t *testing.T, r string) { detached(t, h, r) }) })
	t.Run("signals", func(t *testing.T) { both(t, func(t *testing.T, r string) { signals(t, h, r) }) })
	t.Run("pause", func(t *testing.T) { both(t, func(t *testing.T, r string) { pauses(t, h, r) }) })
	t.Run("metrics", func(t *testing.T) { metrics(t, h) })
	t.Run("stdin", func(t *testing.T) { both(t, func(t *testing.T, r string) { stdin(t, h, r) }) })
	t.Run("tty", func(t *testing.T) { both(t, func(t *testing.T, r string) { terminal(t, h, r) }) })
	t.Run("exec tty", func(t *testing.T) { both(t, func(t *testing.T, r string) { execTerminal(t, h, r) }) })
	t.Run("events", func(t *testing.T) { publishesLikeStock(t, h) })
	t.Run("oom", func(t *testing.T) { both(t, func(t *testing.T, r string) { oom(t, h, r) }) })
	t.Run("reuse of an id", func(t *testing.T) {
		for range 3 {
			h.mustRun(t, sh("true").named("again"))
		}
	})
}

// runsLikeStock compares output and exit status of short containers.
func runsLikeStock(t *testing.T, h *host) {
	for name, args := range map[string][]string{
		"0":                {"sh", "-c", "echo out; echo err >&2"},
		"1":                {"false"},
		"7":                {"sh", "-c", "echo x; exit 7"},
		"126":              {"sh", "-c", "/etc/passwd"},
		"127":              {"sh", "-c", "/nonexistent"},
		"255":              {"sh", "-c", "exit 255"},
		"much output":      {"sh", "-c", "seq 1 100000"},
		"no such command":  {"nonexistent-command"},
		"not executable":   {"/etc/passwd"},
		"a directory":      {"/etc"},
		"a child's signal": {"sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"},
	} {
		t.Run(name, func(t *testing.T) {
			c := container{args: args}.named("same")
			want, got := h.run(c.under(stock)), h.run(c)
			want.Stderr, got.Stderr = comparable(want.Stderr), comparable(got.Stderr)
			if got.Code != want.Code || got.Stdout != want.Stdout || got.Stderr != want.Stderr {
				t.Errorf("got  %d %q %q\nwant %d %q %q", got.Code, short(got.Stdout), got.Stderr, want.Code, short(want.Stdout), want.Stderr)
			}
			// What could not be created is still a container to containerd.
			h.Ctr("container", "rm", "same")
		})
	}
}

// comparable takes the moment out of ctr's log lines.
func comparable(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if _, rest, ok := strings.Cut(line, " level="); ok && strings.HasPrefix(line, "time=") {
			line = rest
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func short(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

func detached(t *testing.T, h *host, runtime string) {
	id := h.start(t, sh("echo begun; sleep 1000; true").under(runtime).with("--log-uri=file://"+h.Dir+"/detached.log"))
	eventually(t, "output in the log", func() bool {
		text, _ := os.ReadFile(h.Dir + "/detached.log")
		return strings.Contains(string(text), "begun")
	})
	if err := os.Remove(h.Dir + "/detached.log"); err != nil {
		t.Error(err)
	}
	r := h.exec(id, "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; exit 9")
	if r.Code != 9 || !strings.Contains(r.Stdout, "echo begun") {
		t.Errorf("exec: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := h.exec(id, "nonexistent-command"); r.Code != 1 || !strings.Contains(r.Stderr, "executable file not found") {
		t.Errorf("exec of a command that is not there: %d %q", r.Code, r.Stderr)
	}
	if r := h.Ctr("task", "rm", id); r.Code == 0 {
		t.Error("a running task can be deleted without force")
	}
	if r := h.Ctr("task", "ps", id); strings.Count(r.Stdout, "\n") != 3 { // a head and two processes
		t.Errorf("task ps: %q", r.Stdout)
	}
}

func signals(t *testing.T, h *host, runtime string) {
	t.Run("trapped", func(t *testing.T) {
		log := h.Dir + "/signals.log"
		id := h.start(t, probe("signals").under(runtime).with("--log-uri=file://"+log))
		t.Cleanup(func() { _ = os.Remove(log) })
		said := func(what string) {
			t.Helper()
			eventually(t, what, func() bool { text, _ := os.ReadFile(log); return strings.Contains(string(text), what) })
		}
		ended := h.exits(t, id)
		said("ready")
		for _, s := range []string{"SIGUSR1", "SIGHUP", "SIGTERM"} {
			if err := h.Ctr("task", "kill", "-s", s, id).Check(); err != nil {
				t.Fatal(err)
			}
			said(s)
		}
		if code := ended(); code != 0 {
			t.Errorf("SIGTERM, trapped, ends with %d", code)
		}
	})
	t.Run("KILL", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000").under(runtime))
		ended := h.exits(t, id)
		if err := h.Ctr("task", "kill", "-s", "SIGKILL", id).Check(); err != nil {
			t.Fatal(err)
		}
		if code := ended(); code != 137 {
			t.Errorf("SIGKILL ends with %d", code)
		}
		if r := h.Ctr("task", "rm", id); r.Check() != nil {
			t.Errorf("delete: %+v", r)
		}
	})
	t.Run("TERM of an exec", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000").under(runtime))
		cmd := h.CtrCommand(t.Context(), "task", "exec", "--exec-id", "e", id, "sh", "-c", "trap 'exit 33' TERM; echo ready; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := h.Ctr("task", "kill", "-s", "SIGTERM", "--exec-id", "e", id).Check(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 33 {
			t.Errorf("the trap of the exec ended with %d", code)
		}
	})
}

func pauses(t *testing.T, h *host, runtime string) {
	log := h.Dir + "/pause.log"
	t.Cleanup(func() { _ = os.Remove(log) })
	id := h.start(t, sh("while :; do echo tick; sleep 0.05; done").under(runtime).with("--log-uri=file://"+log))
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	eventually(t, "ticks", func() bool { return size() > 0 })
	if err := h.Ctr("task", "pause", id).Check(); err != nil {
		t.Fatal(err)
	}
	task := h.task(t, id)
	if s, err := task.Status(h.context(t)); err != nil || s.Status != client.Paused {
		t.Errorf("paused: %v %v", s.Status, err)
	}
	frozen := size()
	if within(300*time.Millisecond, func() bool { return size() > frozen+5 }) { // what was in the pipe may still come
		t.Errorf("a paused container goes on writing")
	}
	if r := h.exec(id, "true"); r.Code == 0 {
		t.Error("a paused container can be executed in")
	}
	if err := h.Ctr("task", "resume", id).Check(); err != nil {
		t.Fatal(err)
	}
	frozen = size()
	eventually(t, "ticks after resuming", func() bool { return size() > frozen+5 })
}

// metrics compares which figures there are.
func metrics(t *testing.T, h *host) {
	names := func(runtime string) []string {
		id := h.start(t, sh("sleep 1000").under(runtime))
		r := h.Ctr("task", "metrics", id)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		var all []string
		for line := range strings.Lines(r.Stdout) {
			if f := strings.Fields(line); len(f) > 0 && f[0] != id {
				all = append(all, f[0])
			}
		}
		return all
	}
	want, got := names(stock), names(forefend)
	if !slices.Equal(want, got) || len(got) < 4 {
		t.Errorf("figures %q, stock has %q", got, want)
	}
}

// stdin writes to a container whose standard input stays open until it has answered.
func stdin(t *testing.T, h *host, runtime string) {
	theirs, mine, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	c := sh("read a; echo \"got $a\"; read b; echo \"then $b\"; exit 4").under(runtime).named(h.newID("stdin"))
	cmd := h.CtrCommand(t.Context(), c.command(h, "--rm")...)
	cmd.Stdin = theirs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	for _, exchange := range [][2]string{{"one\n", "got one\n"}, {"two\n", "then two\n"}} {
		if _, err := io.WriteString(mine, exchange[0]); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(exchange[1]))
		if _, err := io.ReadFull(out, answer); err != nil || string(answer) != exchange[1] {
			t.Fatalf("answer %q to %q: %v", answer, exchange[0], err)
		}
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("exit status %d", code)
	}
}

// publishesLikeStock compares kinds and order of the events of a container with an exec. Stock itself loses the event
// of a deletion now and then, when the shim ends before it was forwarded: then a life does not count.
func publishesLikeStock(t *testing.T, h *host) {
	events := h.record(t)
	life := func(runtime string) string {
		id := h.start(t, sh("sleep 1000; true").under(runtime))
		for _, args := range [][]string{
			{"task", "exec", "--exec-id", "e", id, "true"}, {"task", "pause", id}, {"task", "resume", id}, {"task", "kill", "-s", "SIGKILL", id},
		} {
			if err := h.Ctr(args...).Check(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the event of the exit", func() bool { return strings.HasSuffix(events.of(id), "/tasks/exit") })
		h.remove(id)
		within(2*time.Second, func() bool { return strings.Contains(events.of(id), "/tasks/delete") })
		return events.of(id)
	}
	const complete = "/tasks/create /tasks/start /tasks/exec-added /tasks/exec-started /tasks/exit of exec /tasks/paused /tasks/resumed /tasks/exit /tasks/delete"
	both(t, func(t *testing.T, runtime string) {
		var got string
		for try := 0; try < 3 && got != complete; try++ {
			if got = life(runtime); !strings.HasPrefix(complete, got) {
				break
			}
		}
		if got != complete {
			t.Errorf("events %s", got)
		}
	})
}

func oom(t *testing.T, h *host, runtime string) {
	events := h.record(t)
	id := h.start(t, sh("/probe grow 200; sleep 1000", h.withProbe(), "--memory-limit=33554432").under(runtime))
	eventually(t, "an OOM event", func() bool { return strings.Contains(events.of(id), "/tasks/oom") })
	if runtime != forefend {
		return
	}
	h.remove(id)
	eventually(t, "forefend's own event", func() bool {
		return slices.ContainsFunc(h.events(t, id), func(e event) bool { return e.Kind == "oom" })
	})
	h.explain(t, id).want(t, "memory", "32 MiB", "request")
}

// TestColdNode starts fifty containers at once where no daemon runs yet.
func TestColdNode(t *testing.T) {
	const n = 50
	h := newHost(t)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprintf("cold-%d", i)
			if r := h.run(sh("echo $HOSTNAME-" + id).named(id)); r.Code != 0 || !strings.Contains(r.Stdout, id) {
				t.Errorf("%s: %d %q %q", id, r.Code, r.Stdout, r.Stderr)
			}
		})
	}
	wg.Wait()
	if pids, err := h.Pids("forefend", "daemon"); err != nil || len(pids) != 1 {
		t.Errorf("daemons: %v %v", pids, err)
	}
	admitted := make(map[string]bool)
	for _, e := range h.events(t, "") {
		admitted[e.ID.Container] = admitted[e.ID.Container] || e.Kind == "admitted"
	}
	for i := range n {
		if id := fmt.Sprintf("cold-%d", i); !admitted[id] {
			t.Errorf("the daemon did not decide about %s", id)
		}
	}
}
