package harness

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/root"
)

const stockRuntime = "io.containerd.runc.v2"

// TestStockContainerd runs containers under the stock shim: what holds here holds for the machine, and a difference
// under Forefend's shim is Forefend's doing.
func TestStockContainerd(t *testing.T) {
	e := New(t, WithImages("busybox", "static"))

	t.Run("exit status", func(t *testing.T) {
		r := e.Ctr("run", "--rm", "--runtime", stockRuntime, Image("busybox"), "exits", "sh", "-c", "echo out; echo err >&2; exit 7")
		if r.Code != 7 || r.Stdout != "out\n" || !strings.Contains(r.Stderr, "err") {
			t.Errorf("got %+v", r)
		}
	})

	t.Run("scratch image", func(t *testing.T) {
		r := e.Ctr("run", "--rm", "--runtime", stockRuntime, Image("static"), "probe", "/probe", "sys", "--json", "getpid")
		if err := r.Check(); err != nil || !strings.Contains(r.Stdout, `"value":1}`) {
			t.Errorf("got %+v: %v", r, err)
		}
	})

	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for _, id := range []string{"p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"} {
			wg.Go(func() {
				r := e.Ctr("run", "--rm", "--runtime", stockRuntime, Image("busybox"), id, "echo", id)
				if err := r.Check(); err != nil || r.Stdout != id+"\n" {
					t.Errorf("%s: got %q: %v", id, r.Stdout, err)
				}
			})
		}
		wg.Wait()
	})

	leaks, err := e.Leaks(t.Context())
	if err != nil || len(leaks) > 0 {
		t.Errorf("left behind: %v %v", leaks, err)
	}
}

// TestLeaksSeesContainer proves that the search for leftovers finds what a container consists of.
func TestLeaksSeesContainer(t *testing.T) {
	e := New(t, WithImages("busybox"))
	r := e.Ctr("run", "-d", "--runtime", stockRuntime, Image("busybox"), "sleeper", "sleep", "1000")
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, what := range []string{"(sleep 1000)", "containerd-shim-runc-v2", "cgroup /", "mount ", "shim socket ", "bundle ", "runc state "} {
		for { // a task counts as started a moment before runc has become its program
			found, err := e.owner().leaks(e.expected)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, what) }) {
				break
			}
			if !pause(ctx) {
				t.Fatalf("no %q among %q", what, found)
			}
		}
	}
	pids, err := e.Pids("containerd-shim-runc-v2", "-id", "sleeper")
	if err != nil || len(pids) != 1 {
		t.Errorf("shims: %v %v", pids, err)
	}

	dir := e.Dir
	if err := e.Close(); err != nil {
		t.Errorf("close with a running container: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", dir)
	}
}

// TestRestart proves that containers outlive containerd, which crash tests build on.
func TestRestart(t *testing.T) {
	e := New(t, WithImages("busybox"))
	if err := e.Ctr("run", "-d", "--runtime", stockRuntime, Image("busybox"), "sleeper", "sleep", "1000").Check(); err != nil {
		t.Fatal(err)
	}
	if err := e.RestartContainerd(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := e.Ctr("task", "exec", "--exec-id", "x", "sleeper", "echo", "alive")
	if err := r.Check(); err != nil || r.Stdout != "alive\n" {
		t.Errorf("got %q: %v", r.Stdout, err)
	}
}

// TestEngines proves that every containerd of Engines runs containers, and that leftovers of each are found, wherever
// its shims listen.
func TestEngines(t *testing.T) {
	for _, version := range Engines() {
		t.Run(version, func(t *testing.T) {
			e := New(t, WithContainerd(version), WithImages("busybox"), WithCRI())
			r := e.Ctr("version")
			if _, server, ok := strings.Cut(r.Stdout, "Server:"); !ok || !strings.Contains(server, version+".") {
				t.Errorf("not containerd %s: %v %q", version, r.Check(), r.Stdout)
			}
			r = e.Ctr("run", "-d", "--runtime", stockRuntime, Image("busybox"), "sleeper", "sleep", "1000")
			if err := r.Check(); err != nil {
				t.Fatal(err)
			}
			found, err := e.owner().leaks(e.expected)
			if err != nil {
				t.Fatal(err)
			}
			for _, what := range []string{"containerd-shim-runc-v2", "cgroup /", "mount ", "shim socket ", "bundle ", "runc state "} {
				if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, what) }) {
					t.Errorf("no %q among %q", what, found)
				}
			}
			if err := e.RestartContainerd(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r = e.Ctr("task", "exec", "--exec-id", "x", "sleeper", "echo", "alive")
			if err := r.Check(); err != nil || r.Stdout != "alive\n" {
				t.Errorf("got %q: %v", r.Stdout, err)
			}
			if err := e.Ctr("task", "delete", "-f", "sleeper").Check(); err != nil {
				t.Error(err)
			}
			if left, err := e.Leaks(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// TestSweep proves that the environment of a process that died is removed, running container and all.
func TestSweep(t *testing.T) {
	root.Test(t)
	e, err := Start(t.Context(), WithImages("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Ctr("run", "-d", "--runtime", stockRuntime, Image("busybox"), "sleeper", "sleep", "1000").Check(); err != nil {
		t.Error(err)
	}
	o := e.owner()
	// What dying does: nothing more than to release the lock.
	if err := e.lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sweep(); err != nil {
		t.Error(err)
	}
	left, err := o.leaks(func(process) bool { return false })
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := os.Stat(e.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", e.Dir)
	}
	<-e.daemon.exited
}
