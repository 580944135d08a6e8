package upgrade

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// update changes the memory limit of a running container.
func (n *node) update(id string, memory int64) {
	n.t.Helper()
	ctx := n.Context(context.Background())
	container, err := n.Client().LoadContainer(ctx, id)
	if err != nil {
		n.t.Fatal(err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := task.Update(ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}})); err != nil {
		n.t.Fatalf("update %s: %v", id, err)
	}
}

// known is a workload that is run again and again.
const known = ": known; cat /etc/passwd >/dev/null"

// TestUpgradeAndRollback goes from a commit of the past to the present tree and back, under running containers.
func TestUpgradeAndRollback(t *testing.T) {
	root.Test(t)
	before, after := old(t, past), present(t, "v-after")
	n := newNode(t, before)

	for range 5 {
		if err := n.run(known).Check(); err != nil {
			t.Fatal(err)
		}
	}
	n.start("a")
	n.start("b")
	if d := n.daemon(); d.Version != past {
		t.Fatalf("daemon %+v", d)
	}
	learned := n.history(": known")
	if learned.Runs != 5 || !learned.Sealed {
		t.Fatalf("learned %+v", learned)
	}

	n.step("upgrade", func(t *testing.T) {
		pid := n.row("a").PID
		n.install(after)
		if d := n.daemon(); d.Version != past { // the new CLI understands the old daemon
			t.Errorf("daemon %+v", d)
		}
		n.startsWhileReplaced(t)
		if d := n.daemon(); d.Version != "v-after" || len(d.SetAside) > 0 {
			t.Errorf("daemon %+v", d)
		}
		if r := n.row("a"); r.PID != pid {
			t.Errorf("the new daemon knows %+v, it was process %d", r, pid)
		}
		n.works("a", 64)
		n.works("b", 65)
		if n.current(n.shim("a")) {
			t.Error("a running container changed its shim")
		}
		if now := n.history(": known"); now.Runs != learned.Runs || !now.Sealed {
			t.Errorf("the history has %+v, had %+v", now, learned)
		}
		n.start("c")
		if !n.current(n.shim("c")) {
			t.Error("a new container has an old shim")
		}
		if err := n.run(known).Check(); err != nil {
			t.Error(err)
		}
		n.eventually("a run under the new version", func() bool { return n.history(": known").Runs == 6 })
		n.works("c", 66)
		n.ends("a")
		n.start("d")
	})

	n.step("rollback", func(t *testing.T) {
		n.install(before)
		n.endDaemon()
		if err := n.run(known).Check(); err != nil { // starts the old daemon
			t.Fatal(err)
		}
		d := n.daemon()
		if d.Version != past || len(d.SetAside) > 0 {
			t.Errorf("daemon %+v", d)
		}
		for i, id := range []string{"b", "c", "d"} { // the shims of c and d are new
			n.works(id, int64(70+i))
		}
		if n.current(n.shim("c")) {
			t.Error("a running container changed its shim")
		}
		n.eventually("all seven runs in the history", func() bool { return n.history(": known").Runs == 7 })
		if !n.history(": known").Sealed {
			t.Error("no longer sealed")
		}
		n.ends("b")
		n.ends("c")
	})

	n.step("rollback with a newer configuration", func(t *testing.T) { n.rollbackWithNewerConfig(t) })

	n.step("forward again", func(t *testing.T) {
		n.install(after)
		if _, err := n.forefend("daemon", "--detach", "--takeover", "--ready-timeout", "60s"); err != nil {
			t.Fatal(err)
		}
		n.works("d", 80)
		n.ends("d")
		if d, now := n.daemon(), n.history(": known"); d.Version != "v-after" || len(d.SetAside) > 0 || now.Runs != 7 {
			t.Errorf("daemon %+v, history %+v", d, now)
		}
	})
	left, err := n.Leaks(context.Background())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v\n%s", err, strings.Join(left, "\n"))
	}
}

// startsWhileReplaced replaces the daemon again and again while containers start: each start must succeed, decided by some
// daemon or, for a moment, by its shim.
func (n *node) startsWhileReplaced(t *testing.T) {
	t.Helper()
	const takeovers, starters = 4, 2
	done := make(chan struct{})
	var starting sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for s := range starters {
		starting.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				r := n.Ctr("run", "--rm", "--runtime", runtime, harness.Image("busybox"), fmt.Sprintf("s%d-%d", s, i), "echo", "ran")
				mu.Lock()
				started++
				mu.Unlock()
				if err := r.Check(); err != nil || r.Stdout != "ran\n" {
					t.Errorf("a container while the daemon is replaced: %q %v", r.Stdout, err)
				}
			}
		})
	}
	last := 0
	for range takeovers {
		if _, err := n.forefend("daemon", "--detach", "--takeover", "--ready-timeout", "60s"); err != nil {
			t.Error(err)
		}
		if d := n.daemon(); d.PID == last || d.PID == 0 {
			t.Errorf("daemon %+v, before %d", d, last)
		} else {
			last = d.PID
		}
	}
	close(done)
	starting.Wait()
	if started < starters {
		t.Errorf("%d containers started", started)
	}
	t.Logf("%d containers started under %d daemons", started, takeovers)
}

// A configuration that the older version does not know keeps it from creating containers, with a word, and from nothing else.
func (n *node) rollbackWithNewerConfig(t *testing.T) {
	text, err := os.ReadFile(n.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.ConfigPath, append(text, "\n[metrics]\nlisten = \"off\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	r := n.run("echo ran")
	if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, "metrics: unknown key") {
		t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	n.Ctr("container", "rm", fmt.Sprint("run-", n.next))
	if out, err := n.forefend("policy", "check", n.ConfigPath); err == nil || !strings.Contains(out, "metrics: unknown key") {
		t.Errorf("policy check: %q %v", out, err)
	}
	n.next++
	if out := n.ctr("task", "exec", "--exec-id", fmt.Sprint("x", n.next), "d", "echo", "alive"); out != "alive\n" {
		t.Errorf("exec meanwhile: %q", out)
	}
	if err := os.WriteFile(n.ConfigPath, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.run("true").Check(); err != nil {
		t.Errorf("with its own configuration again: %v", err)
	}
}
