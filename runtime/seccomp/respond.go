package seccomp

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// responder answers the notifications of one listener; it belongs to the
// listener's goroutine and holds the buffers so that a call allocates nothing.
type responder struct {
	fd int
	n  notificationBuffer
	a  answer
}

// serve receives and answers one notification of l. It reports false when the
// listener is of no use any more.
func (r *responder) serve(l *listener) bool {
	if err := receive(r.fd, &r.n); err != nil {
		return errors.Is(err, unix.ENOENT) // the caller was interrupted meanwhile
	}
	r.a = answer{id: r.n.id}
	if l.starting {
		if l.pid == 0 {
			// The filter is new and has no descendants yet, or one of a process that
			// still is the runtime's: taking it for the process ends the phase too early, never too late.
			l.pid = r.n.pid
		}
		r.pass(l)
		return true
	}
	now := l.container.state.Load()
	table := now.own
	if l.origin == OriginExec {
		table = now.executed
	}
	d := table.Decide(r.n.nr, r.n.arch, &r.n.args)
	if d.Kin && r.amongKin() {
		d.Verdict = Watch
	}
	if d.Own && l.origin == OriginExec {
		d.Verdict = Watch
	}
	if d.Verdict == Watch && r.asksForFilterStops() {
		r.a.error = -int32(unix.EINVAL) // neither a denial nor a use: as with clone3's ENOSYS, a kernel that lacks it
		_ = send(r.fd, &r.a)            // else the caller was interrupted, and asks again
		return true
	}
	if l.origin == OriginExec && r.n.nr == unix.SYS_KILL && r.n.arch == nativeAuditArch && d.Verdict == Watch {
		if f := l.container.supervisor.config.OnSignal; f != nil {
			f(l.container.id, intArgument(r.n.args[1]))
		}
	}
	if d.Verdict == Kill && !r.kill() {
		d.Verdict = Deny
	}
	r.answer(l, d, now.phase)
	return true
}

// pass lets runc's own call through, and ends that phase with its execve.
func (r *responder) pass(l *listener) {
	r.a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	first := ""
	if r.n.pid == l.pid {
		first, _ = r.program(l.container)
	}
	if send(r.fd, &r.a) == nil && r.n.arch == nativeAuditArch && r.n.pid == l.pid &&
		(r.n.nr == unix.SYS_EXECVE || r.n.nr == unix.SYS_EXECVEAT) {
		l.starting = false
		l.container.calls.of(l.origin, l.container.Phase()).add(r.n.nr, Watch)
		l.container.programs.add(first)
		l.container.recent.add(r.n.nr, r.n.pid, time.Now())
	}
}

// answer sends the decision. Nothing is counted or reported unless the answer
// arrived: an interrupted call is made again and must not count twice.
func (r *responder) answer(l *listener, d Decision, p Phase) {
	c := l.container
	calls := c.tallyOf(r.n.arch, l.origin, p)
	event, first := Event{}, calls.first(r.n.nr, d.Verdict)
	var where, path string
	internet, executes := false, false
	switch d.Verdict {
	case Watch:
		r.a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		where, internet = r.destination(c)
		path, executes = r.program(c)
	default:
		r.a.error = -d.Errno
	}
	if first {
		event = r.event(l, d, p)
	}
	if send(r.fd, &r.a) != nil && d.Verdict != Kill {
		return
	}
	count := uint64(1)
	if d.Verdict != Watch || !d.Kin && !d.Own { // else it would be learned, and then be allowed towards everybody
		count = calls.add(r.n.nr, d.Verdict)
	}
	if internet && c.destinations.add(where) || executes && c.programs.add(path) {
		c.news()
	}
	if d.Verdict == Watch && r.n.arch == nativeAuditArch {
		c.recent.add(r.n.nr, r.n.pid, time.Now())
	}
	if first {
		event.Count = count
		calls.report(c, event)
	}
}

// event describes the call while its caller waits.
func (r *responder) event(l *listener, d Decision, p Phase) Event {
	name, _ := numberingOf(r.n.arch).name(int(r.n.nr))
	class := Classify(name)
	if r.n.nr == unix.SYS_CLONE && r.n.arch == nativeAuditArch {
		class = ClassDangerous // plain clones are native; this one makes namespaces
	}
	e := Event{
		Container: l.container.id, Syscall: name, Number: r.n.nr, Args: r.n.args, PID: r.n.pid,
		Verdict: d.Verdict, Class: class, Origin: l.origin, Phase: p, Time: time.Now(),
	}
	if d.Verdict == Deny {
		e.Errno = d.Errno
	}
	if len(l.container.supervisor.events) < cap(l.container.supervisor.events) {
		e.Comm, e.Exe = caller(r.n.pid)
		if d.Verdict < Watch {
			e.Tree = ancestry(r.n.pid, l.pid)
			e.Program, _ = r.program(l.container)
		}
	}
	return e
}

// destination reads where a connect, or a sendto with an address, wants to go.
func (r *responder) destination(c *Container) (key string, internet bool) {
	if r.n.arch != nativeAuditArch {
		return "", false
	}
	args := r.n.args
	switch r.n.nr {
	case unix.SYS_CONNECT:
	case unix.SYS_SENDTO:
		args[1], args[2] = args[4], args[5]
	default:
		return "", false
	}
	if !c.budget.take(time.Now()) {
		return "", true
	}
	return destination(r.n.pid, &args)
}

// kill ends the calling process. The thread waits for an answer, so its number
// cannot have been reused once the notification is found valid after opening it.
func (r *responder) kill() bool {
	process, err := unix.PidfdOpen(int(r.n.pid), pidfdThread)
	if err != nil {
		if process, err = unix.PidfdOpen(int(r.n.pid), 0); err != nil {
			return false
		}
	}
	defer unix.Close(process)
	return stillWaiting(r.fd, r.n.id) && unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0) == nil
}

func numberingOf(arch uint32) numbering {
	if arch == nativeAuditArch {
		return nativeNumbering()
	}
	return foreignNumbering()
}

// tallyOf returns the counters for calls of that architecture, origin and phase.
func (c *Container) tallyOf(arch uint32, origin string, p Phase) *tally {
	if arch == nativeAuditArch {
		return c.calls.of(origin, p)
	}
	return c.foreignCalls.get()
}

// first reports whether an event is still due for that call and verdict.
func (t *tally) first(nr int32, v Verdict) bool {
	return nr >= 0 && nr < maxTallied && !t.seen[v][nr].Load()
}

// report hands an event to the dispatcher, or counts it as dropped. A dropped one
// is tried again with the next such call.
func (t *tally) report(c *Container, e Event) {
	seen := &t.seen[e.Verdict][e.Number]
	if seen.Swap(true) {
		return // another listener's call was first
	}
	select {
	case c.supervisor.events <- e:
	default:
		seen.Store(false)
		c.dropped.Add(1)
	}
}
