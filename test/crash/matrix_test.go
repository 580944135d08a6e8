package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cleanWithin is how long it may take until nothing is left, containerd's own cleaning up and the machine's load
// included.
const cleanWithin = 20 * time.Second

// denied is what the exec of every life says: the policy was in force.
const denied = "keyctl: EPERM\n"

// TestMatrix kills each victim at each step. Whatever happens to the container, nothing of it may be left, the next one
// of the same name must start, and the history must have counted its run once.
func TestMatrix(t *testing.T) {
	h := newHost(t)
	for _, s := range steps {
		for _, v := range []victim{shim, daemon, containerd, runc} {
			if v == runc && slices.Contains([]where{inShim, inDaemon, inContainerd}, s.in) {
				continue // there is no runc then
			}
			if v == s.not {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", v, strings.ReplaceAll(s.name, " ", "-")), func(t *testing.T) { cell(t, h, s, v) })
		}
	}
}

func cell(t *testing.T, h *host, s step, v victim) {
	h.warm(t)
	id := h.newID("cell")
	l := &life{h: h, id: id, name: "life of " + id}
	if v == shim { // whose end loses what it had not reported
		l.noted = func() { h.awaitReport(t, l.name) }
	}
	tr := h.trace(t, plan{Step: s.name, Victim: v, ID: id, Dir: h.Dir, Containerd: h.containerdPid(t)})
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
	h.settled(t, cleanWithin)
	t.Logf("%s failed (%v), clean after %v", how.failed, how.err, time.Since(killed).Round(time.Millisecond))
	again := h.Ctr("run", "--rm", "--runtime", forefend, "docker.io/library/busybox:latest", id, "echo", "again")
	if err := again.Check(); err != nil || again.Stdout != "again\n" {
		t.Errorf("the next container of this name: %q %v", again.Stdout, err)
	}
	h.settled(t, cleanWithin)
	wantCounted(t, h, v, l)
}

// wantOutcome checks what the client was told.
func wantOutcome(t *testing.T, s step, v victim, l *life, how lived) {
	t.Helper()
	if how.hung {
		t.Errorf("%s hung: %v", how.failed, how.err)
	}
	switch {
	case v == daemon && (how.failed != "" || l.said != denied):
		t.Errorf("without a daemon %s failed: %v; the exec said %q", how.failed, how.err, l.said)
	case v != daemon && s.in != inDaemon && how.failed != s.op: // what the daemon writes is waited for by nobody in particular
		t.Errorf("%q failed, not %s: %v", how.failed, s.op, how.err)
	case l.said != "" && l.said != denied:
		t.Errorf("the exec said %q", l.said)
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
func wantCounted(t *testing.T, h *host, v victim, l *life) {
	t.Helper()
	h.warm(t)
	var counted int
	var runs []run
	if !eventually(cleanWithin, func() bool {
		counted, runs = h.history(t, l.name)
		over := !slices.ContainsFunc(runs, func(r run) bool { return !r.Final && !r.Exit.Lost })
		return over && counted == len(runs) && counted <= 1 && (counted == 1 || !l.started)
	}) {
		t.Errorf("counted %d times: %+v", counted, runs)
	}
	for _, r := range runs {
		if r.Exit.Lost && v != shim {
			t.Errorf("recorded as %+v", r)
		}
	}
}
