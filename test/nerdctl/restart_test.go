package nerdctl

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestRestartPolicies lets containers end, and containerd too.
func TestRestartPolicies(t *testing.T) {
	h := newHost(t, harness.WithRestarts())
	type container struct{ runtime, name string }
	var containers []container
	start := func(runtime, policy, script string) container {
		name := strings.ReplaceAll(policy, ":", "-") + map[string]string{stock: "-s", forefend: "-f"}[runtime]
		r := h.Nerdctl("run", "-d", "--name", name, "--restart", policy, "--runtime", runtime, "busybox", "sh", "-c", script)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		c := container{runtime, name}
		containers = append(containers, c)
		return c
	}
	inspect := func(c container, format string) string {
		r := h.Nerdctl("inspect", "--format", format, c.name)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(r.Stdout)
	}
	running := func(c container) bool { return inspect(c, "{{.State.Status}}") == "running" }
	// Each start leaves a line in the container's own file system.
	starts := func(c container) int {
		r := h.Nerdctl("exec", c.name, "cat", "/starts")
		return strings.Count(r.Stdout, "x")
	}
	const once = "echo x >>/starts; [ $(wc -l </starts) -gt 2 ] || exit 3; sleep 1000"
	both := func(policy, script string) (pair [2]container) {
		for i, runtime := range runtimes {
			pair[i] = start(runtime, policy, script)
		}
		return pair
	}
	always, unless := both("always", once), both("unless-stopped", once)
	failing := both("on-failure:2", "echo x; exit 3")
	never := both("no", "exit 3")
	for _, pair := range [][2]container{always, unless} {
		for _, c := range pair {
			eventually(t, c.name+" runs after two restarts", func() bool { return running(c) && starts(c) == 3 })
		}
	}
	for _, c := range failing {
		eventually(t, c.name+" was restarted twice and given up", func() bool { return inspect(c, "{{.RestartCount}} {{.State.ExitCode}}") == "2 3" })
		// Its logger is a process of its own, which may be behind.
		eventually(t, c.name+" has logged three lives", func() bool { return strings.Count(h.Nerdctl("logs", c.name).Stdout, "x") == 3 })
	}
	for _, c := range never {
		if got := inspect(c, "{{.RestartCount}} {{.State.Status}}"); got != "0 exited" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	// Stopped by hand, containerd restarted: only "always" comes back, and what ran goes on.
	for _, c := range unless {
		if err := h.Nerdctl("stop", "-t", "1", c.name).Check(); err != nil {
			t.Error(err)
		}
	}
	before := [2]string{inspect(always[0], "{{.State.Pid}}"), inspect(always[1], "{{.State.Pid}}")}
	if err := h.RestartContainerd(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i, c := range always {
		if after := inspect(c, "{{.State.Pid}}"); after != before[i] {
			t.Errorf("%s: process %s before containerd's restart, %s after it", c.name, before[i], after)
		}
		pid, err := strconv.Atoi(before[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // nerdctl kill would count as a wish to stop
			t.Error(err)
		}
	}
	for i, c := range always {
		eventually(t, c.name+" came back after it was killed", func() bool { return running(c) && inspect(c, "{{.State.Pid}}") != before[i] })
	}
	for _, c := range unless {
		if running(c) {
			t.Errorf("%s runs though it was stopped", c.name)
		}
	}
	for _, c := range containers {
		id := h.id(t, c.name)
		if err := h.Nerdctl("rm", "-f", c.name).Check(); err != nil {
			t.Error(err)
		}
		h.endForgotten(t, id)
	}
}

// endForgotten ends the shim of a removed container if it is still there. containerd 2.4.2 forgets the shims of tasks
// that had ended before it was restarted, stock's and ours alike.
func (h *host) endForgotten(t *testing.T, id string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		text, _ := os.ReadFile(path) // it may have ended
		args := strings.Split(string(text), "\x00")
		if !strings.Contains(args[0], "containerd-shim-") || !slices.Contains(args, id) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		eventually(t, "the forgotten shim is gone", func() bool { return syscall.Kill(pid, 0) != nil })
		sockets, _ := filepath.Glob(filepath.Join(h.Dir, "s", "*"))
		for _, socket := range sockets {
			if c, err := net.Dial("unix", socket); err == nil {
				_ = c.Close() // another shim's
				continue
			}
			_ = os.Remove(socket)
		}
	}
}
