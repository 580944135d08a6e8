package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// cleanWithin is how long it may take until nothing is left, containerd's own cleaning up and the machine's load
// included.
const cleanWithin = time.Minute

// maxFailed is how many cells may fail before the others are not worth the minutes that each waits.
const maxFailed = 3

// denied is what the exec of every life says: the policy was in force.
const denied = "keyctl: EPERM\n"

// TestMatrix kills each victim at each step. Whatever happens to the container, nothing of it may be left, the next one
// of the same name must start, and the history must have counted its run once.
func TestMatrix(t *testing.T) {
	fresh := func() *host { return newHost(t, harness.WithConfig(`collect = "5s"`)) }
	h, failed := fresh(), 0
	times := make(map[victim][]time.Duration)
	defer func() {
		for v, all := range times {
			slices.Sort(all)
			t.Logf("%s killed in %d cells: clean after %v (median), %v (longest)", v, len(all), all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
		}
	}()
	for _, s := range steps {
		for _, v := range victims {
			if !s.has(v) {
				continue
			}
			if t.Run(fmt.Sprintf("%s/%s", v, strings.ReplaceAll(s.name, " ", "-")), func(t *testing.T) { cell(t, h, s, v, times) }) {
				continue
			}
			if failed++; failed == maxFailed {
				t.Fatalf("%d cells failed: the rest is not tried", failed)
			}
			h = fresh() // what the cell left would fail all others
		}
	}
}

func cell(t *testing.T, h *host, s step, v victim, times map[victim][]time.Duration) {
	h.warm(t)
	id := h.newID("cell")
	l := &life{h: h, runtime: forefend, id: id, name: "life of " + id}
	var tr *tracer
	switch {
	case s.in == inDaemon && s.op == opCreate:
		l.noted = func() { tr.await(t) }
	case v == shim && s.in != inDaemon: // whose end loses what it had not reported
		l.noted = func() { h.awaitReport(t, l.name) }
	}
	tr = h.trace(t, plan{Step: s.name, Victim: v, ID: id, Dir: h.Dir, Containerd: h.containerdPid(t)})
	how := l.run(t)
	hit, said := tr.stop()
	killed := time.Now()
	if !hit {
		t.Errorf("the step was not reached: the tracer says %q", said)
	}
	wantOutcome(t, s, v, l, how)
	if v == containerd {
		if err := h.RestartContainerd(context.Background(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if v == shim {
		h.endsByItself(t, id)
	}
	h.remove(t, id)
	if v == daemon { // the spool is the next daemon's, which the next container starts
		h.warm(t)
	}
	if v == containerd && s.in == inContainerd {
		h.dropHidden(t, id)
	}
	h.settled(t, cleanWithin)
	took := time.Since(killed)
	// Once the container's end is with the daemon, what it had decided may not be on disk (docs/decisions/0022). What
	// the daemon writes may be written as late as that.
	if v == daemon && s.op != opDelete && s.in != inDaemon {
		h.explained(t, id)
	}
	t.Logf("%s failed (%v), clean after %v", how.failed, how.err, took.Round(time.Millisecond))
	times[v] = append(times[v], took)
	again := h.Ctr("run", "--rm", "--runtime", forefend, harness.Image("busybox"), id, "echo", "again")
	if err := again.Check(); err != nil || again.Stdout != "again\n" {
		t.Errorf("the next container of this name: %q %v", again.Stdout, err)
	}
	h.settled(t, cleanWithin)
	wantCounted(t, h, s, v, l)
}

// wantOutcome checks what the client was told.
func wantOutcome(t *testing.T, s step, v victim, l *life, how lived) {
	t.Helper()
	if how.hung {
		t.Errorf("%s hung: %v", how.failed, how.err)
	}
	got := how.failed + " fails"
	switch want := s.outcome(v); {
	case want == unnoticed && (how.failed != "" || l.said != denied):
		t.Errorf("%s failed: %v; the exec said %q", how.failed, how.err, l.said)
	case want == s.op+" fails" && got != want:
		t.Errorf("%s, not %s: %v", got, want, how.err)
	case l.said != "" && l.said != denied:
		t.Errorf("the exec said %q", l.said)
	}
}

// dropHidden removes what containerd itself leaves when it is killed while it removes a bundle, whatever the runtime:
// the bundle under a name that it skips from then on.
func (h *host) dropHidden(t *testing.T, id string) {
	t.Helper()
	hidden := filepath.Join(h.Dir, "state", "io.containerd.runtime.v2.task", h.Namespace, "."+id)
	if err := os.RemoveAll(hidden); err != nil {
		t.Error(err)
	}
}

// explained checks that the decisions about a container are in the journal, the one that its update led to last.
func (h *host) explained(t *testing.T, id string) {
	t.Helper()
	var d struct{ Revision int }
	if !eventually(cleanWithin, func() bool {
		r := h.Forefend("explain", id, "--json")
		return r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &d) == nil && d.Revision == 2
	}) {
		t.Errorf("the journal has revision %d of the decision about %s", d.Revision, id)
	}
}

// endsByItself checks that a container whose shim was killed ends without anybody's doing.
func (h *host) endsByItself(t *testing.T, id string) {
	t.Helper()
	if !eventually(cleanWithin, func() bool {
		shims, err := h.Pids(shimBinary, "-id", id)
		sleepers, err2 := h.Pids("sleep", "1000")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return len(shims)+len(sleepers) == 0 && !strings.Contains(h.Ctr("task", "ls").Stdout, id)
	}) {
		t.Errorf("its processes or its task are still there: %s", h.Ctr("task", "ls").Stdout)
	}
}

// awaitReport waits until the daemon has heard of a run.
func (h *host) awaitReport(t testing.TB, name string) {
	t.Helper()
	if !eventually(cleanWithin, func() bool { counted, _ := h.history(t, name); return counted > 0 }) {
		t.Errorf("the run of %q is never reported", name)
	}
}

// wantCounted checks that a run that began is in the history once, and one that did not is not twice.
func wantCounted(t *testing.T, h *host, s step, v victim, l *life) {
	t.Helper()
	h.warm(t)
	var counted int
	var runs []run
	if !eventually(cleanWithin, func() bool {
		counted, runs = h.history(t, l.name)
		over := !slices.ContainsFunc(runs, func(r run) bool { return !r.Final && !r.Exit.Lost })
		return over && counted == len(runs) && counted <= 1 && (counted == 1 || !l.started || v == shim && s.in == inDaemon)
	}) {
		t.Errorf("counted %d times: %+v", counted, runs)
	}
	for _, r := range runs {
		if r.Exit.Lost && v != shim {
			t.Errorf("recorded as %+v", r)
		}
	}
}

// TestLikeStock does under the stock shim what TestMatrix does where both have the same steps, in runc: the client
// must see the same. What the stock shim leaves behind is noted.
func TestLikeStock(t *testing.T) {
	h := newHost(t)
	for _, s := range steps {
		for _, v := range []victim{containerd, runc} {
			if !s.has(runc) || strings.Contains(s.name, "listener") { // there is none
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", v, strings.ReplaceAll(s.name, " ", "-")), func(t *testing.T) {
				id := h.newID("stock")
				l := &life{h: h, runtime: stock, id: id, name: "life of " + id}
				tr := h.trace(t, plan{Step: s.name, Victim: v, ID: id, Dir: h.Dir, Containerd: h.containerdPid(t)})
				how := l.run(t)
				if hit, said := tr.stop(); !hit || how.failed+" fails" != s.outcome(v) {
					t.Errorf("%q failed, under Forefend %s: %v; the tracer says %q", how.failed, s.outcome(v), how.err, said)
				}
				if v == containerd {
					if err := h.RestartContainerd(context.Background(), syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				h.remove(t, id)
				if left, err := h.Leaks(context.Background()); err != nil || len(left) > 0 {
					t.Logf("the stock shim leaves %d things, such as %q (%v)", len(left), left[0], err)
				}
				takeAlong(t, h, id)
			})
		}
	}
}

// takeAlong runs a container of the same name with the stock shim until nothing is left of the one before: that takes the
// bundle, and with it the shim, of a life that ended in a crash. A containerd that came back while the shim was about to
// delete its task holds on to a shim without one, until it is started once more.
func takeAlong(t *testing.T, h *host, id string) {
	t.Helper()
	var left []string
	for range 5 {
		r := h.Ctr("run", "--rm", "--runtime", stock, harness.Image("busybox"), id, "true")
		var err error
		if left, err = h.Leaks(context.Background()); err == nil && len(left) == 0 {
			return
		}
		t.Logf("after a run of the same name (%v) there are left %q (%v)", r.Check(), left, err)
		h.remove(t, id)
		if err := h.RestartContainerd(context.Background(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("the stock shim leaves %q", left)
}
