package shim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

func TestLifeLearnsEarlyAndEnforcesLate(t *testing.T) {
	_, c := supervised(t)
	const quiet = 2 * time.Second
	l := &c.life
	serving := policy.Field{Key: policy.KeyServing, Names: []string{"execve", "openat"}, Value: policy.SyscallDeny, Origin: policy.Origin{Author: policy.Default}}
	l.begin(quiet, c.supervised, c.current())
	l.rebase(c.supervised.Table(), c.current().Effective.Put(serving))
	now := time.Unix(1e9, 0)
	own := func() seccomp.Verdict { v, _ := c.supervised.OwnTable().Verdict("execve"); return v }
	executed := func() seccomp.Verdict { v, _ := c.supervised.Table().Verdict("execve"); return v }
	at := func(after time.Duration, want news, phase seccomp.Phase, verdict seccomp.Verdict) {
		t.Helper()
		n, refused := l.tick(now.Add(after))
		if n != want || c.supervised.Phase() != phase || own() != verdict || executed() != seccomp.Watch {
			t.Errorf("after %v: news %d, phase %s, execve %s, executed %s", after, n, c.supervised.Phase(), own(), executed())
		}
		if n == newsEnforced && !slices.Equal(refused, []string{"execve", "openat"}) {
			t.Errorf("refused %v", refused)
		}
	}
	at(time.Hour, noNews, seccomp.Starting, seccomp.Watch) // who never listens never serves
	l.listens(now)
	l.listens(now.Add(time.Hour)) // the first one counts
	at(quiet-1, noNews, seccomp.Starting, seccomp.Watch)
	at(quiet, newsServes, seccomp.Serving, seccomp.Watch)
	at(2*quiet-1, noNews, seccomp.Serving, seccomp.Watch)
	at(2*quiet, newsEnforced, seccomp.Serving, seccomp.Deny)
	at(3*quiet, noNews, seccomp.Serving, seccomp.Deny)

	// A change of the policy holds in the phase that there is.
	if l.rebase(l.base, c.current().Effective); own() != seccomp.Watch {
		t.Error("allowed by the policy, and still denied")
	}
	l.rebase(l.base, c.current().Effective.Put(serving))

	if what := l.signalled(unix.SIGHUP, now.Add(4*quiet)); !strings.Contains(what, "SIGHUP") || own() != seccomp.Watch || c.supervised.Phase() != seccomp.Serving {
		t.Errorf("told to reload: %q, execve %s", what, own())
	}
	at(5*quiet-1, noNews, seccomp.Serving, seccomp.Watch)
	at(5*quiet, newsEnforced, seccomp.Serving, seccomp.Deny)

	if what := l.signalled(unix.SIGTERM, now.Add(6*quiet)); what == "" || c.supervised.Phase() != seccomp.Stopping || own() != seccomp.Watch {
		t.Errorf("told to end, of which too little is known: %q, execve %s", what, own())
	}
	if what := l.signalled(unix.SIGTERM, now.Add(7*quiet)); what != "" {
		t.Errorf("told twice: %q", what)
	}
	at(8*quiet, noNews, seccomp.Stopping, seccomp.Watch)
	var o workload.Observation
	if l.describe(&o, seccomp.Counts{Serving: map[string]uint64{"a": 1}}, now.Add(time.Hour)); !o.Stopped || o.Served != (5*quiet).Seconds() || len(o.Serving) != 1 {
		t.Errorf("%+v", o)
	}
}

func TestLifeOfOneThatIsSeenToServe(t *testing.T) {
	_, c := supervised(t)
	c.life.begin(time.Second, c.supervised, c.current())
	now := time.Now()
	if !c.life.serves(now) || c.life.serves(now) || c.supervised.Phase() != seccomp.Serving {
		t.Errorf("phase %s", c.supervised.Phase())
	}
	if n, _ := c.life.tick(now.Add(time.Second - 1)); n != noNews {
		t.Error("enforced too early")
	}
	if n, refused := c.life.tick(now.Add(time.Second)); n != newsEnforced || len(refused) > 0 {
		t.Errorf("%d %v: nothing is known of it", n, refused)
	}
	if c.life.reopens(now) != true || c.life.reopens(now) != false {
		t.Error("it is opened again once")
	}
	if n, _ := c.life.tick(now.Add(time.Second)); n != newsEnforced {
		t.Fatal("a window that nothing is started in stays open")
	}
	var unsupervised life
	if unsupervised.serves(now) || unsupervised.stops(now) || unsupervised.reopens(now) {
		t.Error("without supervision there are no phases")
	}
	if n, _ := unsupervised.tick(now); n != noNews {
		t.Error("nor news")
	}
}

// What is started in a window, or signalled again, holds it open for patience times quiet and no longer.
func TestWindowOfAReloadEnds(t *testing.T) {
	const quiet = time.Second
	for what, keep := range map[string]func(*life, time.Time){
		"programs": func(l *life, _ time.Time) { l.begun = ^uint64(0) }, // another number than is counted: something was started
		"signals":  func(l *life, now time.Time) { l.signalled(unix.SIGHUP, now) },
	} {
		_, c := supervised(t)
		l := &c.life
		l.begin(quiet, c.supervised, c.current())
		now := time.Unix(1e9, 0)
		l.serves(now)
		if n, _ := l.tick(now.Add(quiet)); n != newsEnforced {
			t.Fatalf("%s: news %d of a quiet server", what, n)
		}
		for window := range 2 { // after one another: a later reload has a window of its own
			now = now.Add(time.Hour)
			if l.signalled(unix.SIGHUP, now) == "" {
				t.Fatalf("%s: window %d was not opened", what, window)
			}
			for after := quiet / 2; ; after += quiet / 2 {
				keep(l, now.Add(after))
				n, _ := l.tick(now.Add(after))
				if closed := n == newsEnforced; closed != (after == patience*quiet) {
					t.Fatalf("%s: window %d, closed %v after %v", what, window, closed, after)
				} else if closed {
					break
				}
			}
		}
	}
}
