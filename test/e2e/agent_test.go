package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

const agentBinary = "forefend-agent"

// early makes every agent one that is there before its container starts.
const early = "[agent]\ndelay = \"0s\"\n"

// agentOf waits for the agent of a container and returns its process.
func (h *host) agentOf(t testing.TB, id string) int {
	t.Helper()
	var pid int
	eventually(t, "an agent of "+id, func() bool {
		pids := h.agents(id)
		if len(pids) == 1 {
			pid = pids[0]
		}
		return len(pids) == 1
	})
	return pid
}

// agents lists the agents in the cgroup of a container's agent.
func (h *host) agents(id string) []int {
	pids, err := h.Pids(agentBinary)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return !strings.Contains(string(cgroups), "/forefend/agent/"+h.Namespace+":"+id+"\n")
	})
}

// TestAgent looks at the agent of a container from outside: where it is, what it may, and that nothing is left of it.
func TestAgent(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000"))
	pid := h.agentOf(t, id)
	task := h.pidOf(t, id)
	for _, ns := range []string{"net", "mnt", "ipc", "uts"} {
		if a, b := namespaceOf(t, pid, ns), namespaceOf(t, task, ns); a != b {
			t.Errorf("%s: the agent's %s, the container's %s", ns, a, b)
		}
	}
	for _, ns := range []string{"pid", "user", "cgroup"} {
		if a, b := namespaceOf(t, pid, ns), namespaceOf(t, os.Getpid(), ns); a != b {
			t.Errorf("%s: the agent's %s, the host's %s", ns, a, b)
		}
	}
	status := statusOf(t, pid)
	const netAdmin = "0000000000001000"
	for key, want := range map[string]string{
		"CapEff": netAdmin, "CapPrm": netAdmin, "CapAmb": netAdmin, "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if status[key] != want {
			t.Errorf("%s is %s, want %s", key, status[key], want)
		}
	}
	if uid := strings.Fields(status["Uid"])[0]; len(uid) != 10 || uid[0] != '4' {
		t.Errorf("it runs as user %s", uid)
	}
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid)); err != nil || info.Sys() == nil {
		t.Error(err)
	} else if owner := ownerOf(info); owner != 0 { // of a process that is dumpable it is the process's user
		t.Errorf("it is dumpable: /proc/%d/mem is of user %d", pid, owner)
	}
	if root, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid)); err != nil || len(root) > 0 {
		t.Errorf("its root directory has %v: %v", root, err)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || strings.Contains(string(env), "FOREFEND") {
		t.Errorf("environment %q: %v", env, err)
	}
	h.remove(id)
	if within(0, func() bool { return len(h.agents(id)) > 0 }) {
		t.Error("the agent outlives its container")
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/forefend/agent/*:" + id); len(left) > 0 {
		t.Errorf("cgroups left: %v", left)
	}
}

func namespaceOf(t testing.TB, pid int, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestAgentReplaced kills the agent again and again; each time another takes its place.
func TestAgentReplaced(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000"))
	pid := h.agentOf(t, id)
	for range 5 {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		last := pid
		eventually(t, "another agent", func() bool {
			pids := h.agents(id)
			if len(pids) == 1 && pids[0] != last {
				pid = pids[0]
			}
			return pid != last
		})
	}
}

// TestAgentStopped ends containers whose agent is stopped, or has just been killed.
func TestAgentStopped(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		id := h.start(t, sh("sleep 1000"))
		if err := unix.Kill(h.agentOf(t, id), sig); err != nil {
			t.Fatal(err)
		}
		if err := h.Ctr("task", "kill", "-s", "KILL", id).Check(); err != nil {
			t.Error(err)
		}
		eventually(t, "the task's end", func() bool {
			return strings.Contains(h.Ctr("task", "ls").Stdout, "STOPPED") || !strings.Contains(h.Ctr("task", "ls").Stdout, id)
		})
		if err := h.Ctr("task", "rm", id).Check(); err != nil {
			t.Error(err)
		}
		if len(h.agents(id)) > 0 {
			t.Errorf("%v: the agent outlives its container", sig)
		}
	}
}

// TestAgentWaits starts a container that lives shorter than what it takes to get an agent, and one that lives longer.
func TestAgentWaits(t *testing.T) {
	h := newHost(t, harness.WithConfig("[agent]\ndelay = \"300ms\"\n"))
	id := h.start(t, sh("sleep 1000"))
	h.agentOf(t, id)
	h.mustRun(t, sh("true"))
}

// TestAgentOfHostNetwork starts containers that get no agent.
func TestAgentOfHostNetwork(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000", "--net-host"))
	if pids := h.agents(id); len(pids) > 0 {
		t.Errorf("agents %v in the host's network", pids)
	}
}

// TestAgentShimKilled kills the shim of a container whose agent is stopped: the delete command ends it.
func TestAgentShimKilled(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000"))
	pid := h.agentOf(t, id)
	shims, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(shims) != 1 {
		t.Fatal(shims, err)
	}
	if err := errors.Join(unix.Kill(pid, unix.SIGSTOP), unix.Kill(shims[0], unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the agent", func() bool { return unix.Kill(pid, 0) != nil })
}

// pidOf is the first process of a container.
func (h *host) pidOf(t testing.TB, id string) int {
	t.Helper()
	for line := range strings.Lines(h.Ctr("task", "ls").Stdout) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == id {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no task %s", id)
	return 0
}

// statusOf reads a process's status file.
func statusOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			out[key] = strings.TrimSpace(value)
		}
	}
	return out
}

func ownerOf(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
