package shim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// life is how far a container has come: start, serving, stopping (docs/decisions/0059). It needs nobody's answer: what
// changes with the phase is in the policy.
//
// It learns early and enforces late. From the first sign that the workload serves, its calls count as those of a serving one, so
// that too much is known of it rather than too little; the policy for it is in force only once nothing has
// been started for a while. A signal that a client of containerd sends opens it again for as long: a reload does what a start does.
type life struct {
	quiet time.Duration

	mu        sync.Mutex // guards all below, and turns of SetTables
	calls     *seccomp.Container
	base      *seccomp.Table // before, and for executed processes
	effective policy.Effective
	known     *workload.Phases

	phase     seccomp.Phase
	enforced  bool // the policy of a serving workload is in force
	listening time.Time
	since     time.Time // of the phase serving, or of its being open again: a window ends patience times quiet after it, whatever is done in it
	served    time.Time // when it began to serve; zero: not yet
	stopped   time.Time
	begun     uint64    // calls that a start makes, as last counted
	changed   time.Time // when that was last another number
}

// patience is how many times quiet it is waited for quiet at most, from the first sign of serving or the signal that opened a
// window: who never ends starting serves as well, and what is executed in a reload's window does not hold it open.
const patience = 30

// begin makes l the life of a container with these calls.
func (l *life) begin(quiet time.Duration, calls *seccomp.Container, d api.Decision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet, l.calls, l.base, l.effective, l.known = quiet, calls, calls.Table(), d.Effective, d.Prediction.Phases
}

// rebase puts another table and policy in force, in whatever phase.
func (l *life) rebase(table *seccomp.Table, e policy.Effective) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base, l.effective = table, e
	l.applyLocked()
}

func (l *life) applyLocked() {
	if l.calls == nil {
		return
	}
	own := l.base
	var verdicts map[string]seccomp.Verdict
	switch {
	case l.phase == seccomp.Serving && l.enforced:
		verdicts = admit.ServingVerdicts(l.effective)
	case l.phase == seccomp.Stopping:
		verdicts = admit.StoppingVerdicts(l.effective, l.known)
	}
	if len(verdicts) > 0 {
		own = l.base.Clone()
		for name, v := range verdicts {
			if now, watched := own.Verdict(name); watched {
				_ = own.SetVerdict(name, min(now, v), seccomp.NoException) // what the kernel lets through stays so
			}
		}
	}
	l.calls.SetTables(own, l.base, l.phase)
}

// listens notes that the workload waits for clients.
func (l *life) listens(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listening.IsZero() {
		l.listening, l.changed = now, now
	}
}

// serves notes a sign that the workload serves. It reports whether that is news.
func (l *life) serves(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.servesLocked(now)
}

func (l *life) servesLocked(now time.Time) bool {
	if l.phase != seccomp.Starting || l.calls == nil {
		return false
	}
	l.phase, l.since, l.served, l.changed = seccomp.Serving, now, now, now
	l.applyLocked()
	return true
}

// What tick found out.
type news uint8

const (
	noNews news = iota
	newsServes
	newsEnforced
)

// tick looks at a container from time to time. refused are the calls that are refused from now on.
func (l *life) tick(now time.Time) (n news, refused []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls == nil || l.phase == seccomp.Stopping || l.enforced || l.phase == seccomp.Starting && l.listening.IsZero() {
		return noNews, nil
	}
	if begun := l.calls.Beginnings(); begun != l.begun {
		l.begun, l.changed = begun, now
	}
	from := l.since
	if l.phase == seccomp.Starting {
		from = l.listening
	}
	if now.Sub(l.changed) < l.quiet && now.Sub(from) < patience*l.quiet {
		return noNews, nil
	}
	if l.phase == seccomp.Starting {
		l.servesLocked(now)
		return newsServes, nil
	}
	if now.Sub(from) < l.quiet {
		return noNews, nil
	}
	l.enforced = true
	l.applyLocked()
	return newsEnforced, slices.Sorted(maps.Keys(admit.ServingVerdicts(l.effective)))
}

// reopens lets a serving workload do again what a start may, until nothing has been started for a while. It reports whether
// that is news: a signal within a window begins its wait for quiet again, but does not move its end.
func (l *life) reopens(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase != seccomp.Serving {
		return false
	}
	l.changed = now
	if !l.enforced {
		return false
	}
	l.enforced, l.since = false, now
	l.applyLocked()
	return true
}

// stops notes that the workload was told to end.
func (l *life) stops(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase == seccomp.Stopping || l.calls == nil {
		return false
	}
	l.phase, l.stopped = seccomp.Stopping, now
	l.applyLocked()
	return true
}

// describe adds what an observation says of phases.
func (l *life) describe(o *workload.Observation, counts seccomp.Counts, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Stopped = !l.stopped.IsZero()
	if l.served.IsZero() {
		return
	}
	end := now
	if o.Stopped {
		end = l.stopped
	}
	o.Served, o.Serving, o.Stopping = max(end.Sub(l.served).Seconds(), 0), counts.Serving, counts.Stopping
}

// What a signal makes of a container's life.
func (l *life) signalled(signal unix.Signal, now time.Time) string {
	switch signal {
	case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
		if l.stops(now) {
			return "it was told to end (" + unix.SignalName(signal) + ")"
		}
	case unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH:
		if l.reopens(now) {
			return "it was sent " + unix.SignalName(signal) + ": what a start may do is allowed until that is done"
		}
	}
	return ""
}

// Kill notes what the signal means for the container's phase, ahead of its handler.
func (s *Service) Kill(ctx context.Context, r *taskv3.KillRequest) (*types.Empty, error) {
	if c := s.container(r.ID); c != nil && r.ExecID == "" {
		s.signalled(c, unix.Signal(r.Signal))
	}
	return s.TTRPCTaskService.Kill(ctx, r)
}

// onSignal hears of signals that executed processes send in a container, from the goroutine that answers them.
func (s *Service) onSignal(container string, signal int) {
	if c := s.container(container); c != nil {
		s.signalled(c, unix.Signal(signal))
	}
}

func (s *Service) signalled(c *container, signal unix.Signal) {
	if what := c.life.signalled(signal, time.Now()); what != "" {
		s.tellPhase(c, what)
	}
}

// onAccepted is told of the first connection that a container accepted.
func (s *Service) onAccepted(c *container, p Passage) {
	if c.life.serves(time.Now()) {
		s.tellPhase(c, fmt.Sprintf("it serves: a first connection was accepted on port %d", p.Port))
	}
}

// lives looks at a container's life.
func (s *Service) lives(c *container, now time.Time) {
	switch n, refused := c.life.tick(now); {
	case n == newsServes:
		s.tellPhase(c, "it serves: it listens, and has started nothing for a while")
	case n == newsEnforced && len(refused) > 0:
		s.tellPhase(c, fmt.Sprintf("it serves; refused from now on, as no earlier run made them while serving: %s", strings.Join(refused, " ")))
	}
}

func (s *Service) tellPhase(c *container, message string) {
	s.reporter.event(api.Event{
		Time: time.Now(), ID: c.id, Run: c.current().Facts.Run, Kind: api.EventPhase, Message: message,
		Fields: map[string]string{"phase": c.supervised.Phase().String()},
	})
}
