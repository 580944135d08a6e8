package cri

import (
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPod runs several containers in one pod: one shim serves them all, they share what a pod shares, each has a policy
// of its own, and the end of one is not that of the others.
func TestPod(t *testing.T) {
	n := newNode(t)

	t.Run("shared", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			server := p.start(t, probe("serve", "-addr", "127.0.0.1:8080"))
			server.prints(t, "ready")
			ipc := p.start(t, shell(`id=$(ipcmk -Q 2>/dev/null || true); echo > /dev/shm/left; echo ready; sleep 1000`))
			ipc.prints(t, "ready")
			out := p.run(t, shell("wget -qO- http://127.0.0.1:8080/; ls /dev/shm; hostname | cut -c1-4"))
			if out != "ok\nleft\npod-\nexit 0\n" {
				t.Errorf("got %s", out)
			}
			pids := p.shims(t, handler)
			if len(pids) != 1 {
				t.Errorf("shims of the pod: %v", pids)
			}
			for _, c := range []*container{server, ipc} {
				if parent := parentOf(t, c.pid(t)); len(pids) == 1 && parent != pids[0] {
					t.Errorf("container's parent is %d, the pod's shim %d", parent, pids[0])
				}
			}
			return out
		})
	})

	t.Run("one ends", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			stays := p.start(t, sleeper())
			dies := p.start(t, shell("exit 3"))
			out := dies.end(t)
			killed := p.start(t, command("sleep", "1000"))
			killed.kill(t, 0)
			out += killed.end(t)
			oom := p.start(t, probe("grow", "200"), func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 32 << 20 })
			s := oom.ended(t)
			out += fmt.Sprintln(s.Reason, s.ExitCode)
			if s.Reason != "OOMKilled" {
				t.Errorf("reason %q, want OOMKilled", s.Reason)
			}
			again := p.start(t, shell("echo new"))
			return out + again.end(t) + stays.exec(t, "echo", "alive") + fmt.Sprintln(stays.status(t).State, p.status(t).State)
		})
	})

	t.Run("different policies", func(t *testing.T) {
		p := n.pod(t, forefend)
		var held []*container
		for _, value := range []string{"64Mi", "128Mi"} {
			held = append(held, p.start(t, sleeper(), func(c *cri.ContainerConfig) { c.Annotations["forefend.dev/memory"] = value }))
		}
		for i, want := range []string{"67108864", "134217728"} {
			if got := held[i].cgroup(t, "memory", "memory.limit_in_bytes", "memory.max"); got != want {
				t.Errorf("container %d: limit %s, want %s", i, got, want)
			}
		}
	})

	t.Run("many", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			all := make([]*container, 8)
			for i := range all {
				all[i] = p.start(t, sleeper())
			}
			var out strings.Builder
			for _, c := range all {
				out.WriteString(c.exec(t, "echo", "here"))
			}
			return out.String()
		})
	})
}

// parentOf reads the parent of a process.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	var parent int
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if n, _ := fmt.Sscanf(line, "PPid: %d", &parent); n == 1 {
			return parent
		}
	}
	t.Fatalf("no parent of %d", pid)
	return 0
}
