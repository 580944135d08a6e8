package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// earlier is a commit whose build stands for the release before this one: what a node has when it is upgraded.
const earlier = "95f22a0b0c102e361d8cd024bf9716a6a6de51cf"

// builtEarlier builds that release's shim and daemon, once a test run.
var builtEarlier = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "forefend-earlier-")
	if err != nil {
		return "", err
	}
	script := `set -e; cd "$(git rev-parse --show-toplevel)"; git archive "$1" cmd predictor runtime shim go.mod go.sum | tar -x -C "$2"; cd "$2"
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=earlier' -o bin/ ./cmd/...`
	if out, err := exec.Command("sh", "-c", script, "sh", earlier, dir).CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build %s: %w\n%s", earlier, err, out)
	}
	return dir, nil
})

func earlierBuild(t *testing.T) string {
	t.Helper()
	root.Test(t)
	if err := exec.Command("git", "cat-file", "-e", earlier+"^{commit}").Run(); err != nil {
		t.Skipf("no git history that reaches %s: nothing to build the earlier release from (%v)", earlier, err)
	}
	dir, err := builtEarlier()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "bin")
}

// TestNeighbours upgrades a node, and rolls it back, while its containers run: shims and daemons of both releases
// have to get on with each other, in every combination that comes about.
func TestNeighbours(t *testing.T) {
	before := earlierBuild(t)
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(before)) })
	for _, version := range []string{"1.7", "2.4"} { // one binary for each container of a pod, one for the pod
		h := newHost(t, harness.WithContainerd(version))
		after := h.BinDir
		for name, way := range map[string][2]string{"upgrade": {before, after}, "rollback": {after, before}} {
			t.Run(name+" under "+version, func(t *testing.T) { replaced(t, h, way[0], way[1]) })
		}
	}
}

// install puts a build's shim and daemon where the site has them, as a package manager does: by renaming.
func (h *host) install(t *testing.T, from string) (shim string) {
	t.Helper()
	to := filepath.Join(h.Dir, "site")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"forefend", shimBinary} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.WriteFile(path+".new", text, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, shimBinary)
}

// inPod is a container of a pod, as containerd's CRI plugin marks it.
func (c container) inPod(sandbox string) container {
	kind := "container"
	if c.id == sandbox {
		kind = "sandbox"
	}
	return c.with("--annotation=io.kubernetes.cri.sandbox-id="+sandbox, "--annotation=io.kubernetes.cri.container-type="+kind)
}

// replaced runs containers of one build and replaces it by another under them.
func replaced(t *testing.T, h *host, first, second string) {
	h.killDaemons(t)
	shim := h.install(t, first)
	sleeper := sh("trap 'exit 7' TERM; while :; do sleep 0.1; done", "--memory-limit=134217728").under(shim)
	alone := h.start(t, sleeper)
	victim := h.start(t, sh("sleep 1000").under(shim))
	pod := h.newID("pod")
	h.start(t, sleeper.named(pod).inPod(pod))
	shims := func(id string) int {
		t.Helper()
		pids, err := h.Pids(shimBinary, "-id", id)
		if err != nil {
			t.Fatal(err)
		}
		return len(pids)
	}

	h.install(t, second)
	t.Run("the first daemon", func(t *testing.T) {
		serves(t, h, alone, "64 MiB", 64<<20)
		added := h.start(t, sleeper.inPod(pod)) // by the second shim, or in the first by what the first was told
		if shims(added) != 0 {
			t.Error("a pod with two shims")
		}
		serves(t, h, added, "64 MiB", 64<<20)
		fresh := h.start(t, sleeper)
		serves(t, h, fresh, "64 MiB", 64<<20)
		for _, id := range []string{added, fresh} {
			ends(t, h, id)
		}
	})
	h.killDaemons(t) // as an upgrade restarts it: the next container starts that of the second build
	t.Run("the second daemon", func(t *testing.T) {
		fresh := h.start(t, sleeper)
		added := h.start(t, sleeper.inPod(pod))
		for _, id := range []string{alone, pod, added, fresh} {
			serves(t, h, id, "96 MiB", 96<<20)
		}
		if got := len(h.ps(t)); got != 5 {
			t.Errorf("ps lists %d containers, want 5", got)
		}
		// Of shims that the earlier release started, a containerd before 2.0 that is restarted finds none again.
		if !h.old() {
			if err := h.RestartContainerd(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{added, fresh, alone, pod} {
			serves(t, h, id, "80 MiB", 80<<20)
			ends(t, h, id)
		}
	})
	t.Run("a killed shim of the first, cleaned up by the second", func(t *testing.T) {
		if second != h.BinDir {
			return // an earlier release leaves the socket behind, and knows nothing of the cgroup that was an agent's
		}
		h.killShim(t, victim)
		eventually(t, "no trace of it", func() bool { return h.traceless(t, victim) })
	})
	h.remove(victim)
	h.noLeaks(t)
}

// serves fails the test unless a container can be executed in, updated and explained.
func serves(t *testing.T, h *host, id, text string, limit int64) {
	t.Helper()
	if r := h.exec(id, "grep", "^Seccomp:", "/proc/self/status"); r.Stdout != "Seccomp:\t2\n" {
		t.Errorf("exec in %s: %q %q", id, r.Stdout, r.Stderr)
	}
	if err := h.update(t, id, memory(limit)); err != nil {
		t.Errorf("update of %s: %v", id, err)
	}
	if n := h.limit(t, id, "memory"); n != limit {
		t.Errorf("%s has a limit of %d, want %d", id, n, limit)
	}
	d := h.explain(t, id)
	if d.Availability != "daemon" {
		t.Errorf("%s: decided by %q: %v", id, d.Availability, d.Notes)
	}
	d.want(t, "memory", text, "request")
}

// ends fails the test unless a container ends as it is told to, and goes.
func ends(t *testing.T, h *host, id string) {
	t.Helper()
	exits := h.exits(t, id)
	if err := h.Ctr("task", "kill", "-s", "SIGTERM", id).Check(); err != nil {
		t.Error(err)
	}
	if code := exits(); code != 7 {
		t.Errorf("%s ended with %d", id, code)
	}
	if r := h.Ctr("task", "rm", id); r.Check() != nil || strings.Contains(r.Stderr, "error") {
		t.Errorf("delete %s: %v %q", id, r.Check(), r.Stderr)
	}
}
