package shim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// onSyscall turns the supervisor's first-seen events into events for people. It is
// called from the supervisor's one event goroutine.
func (s *Service) onSyscall(e seccomp.Event) {
	c := s.container(e.Container)
	if c == nil {
		return
	}
	own := e.Origin == seccomp.OriginInit
	if own && e.Syscall == "listen" && e.Verdict == seccomp.Watch {
		c.life.listens(e.Time)
	}
	d := c.current()
	_, known := d.Prediction.Seen[e.Syscall]
	serving := own && e.Phase == seccomp.Serving
	out := api.Event{Time: e.Time, ID: c.id, Run: d.Facts.Run, Fields: map[string]string{
		"syscall": e.Syscall, "pid": strconv.FormatUint(uint64(e.PID), 10), "comm": e.Comm, "exe": e.Exe,
		"verdict": e.Verdict.String(), "class": e.Class.String(), "origin": e.Origin,
	}}
	if own {
		out.Fields["phase"] = e.Phase.String()
	}
	if e.Program != "" {
		out.Fields["program"] = e.Program
	}
	switch {
	case e.Verdict < seccomp.Watch:
		out.Kind = api.EventDenied
		out.Fields["errno"] = strconv.Itoa(int(e.Errno))
		out.Fields["tree"] = tree(e.Tree)
		out.Message = fmt.Sprintf("%s by %s denied: %s%s", what(e), e.Comm, whyDenied(d.Effective, e, own), descent(e.Tree))
	case e.Class == seccomp.ClassDangerous && !known:
		out.Kind = api.EventWatched
		out.Message = fmt.Sprintf("%s by %s let through under watch", e.Syscall, e.Comm)
	case serving && wouldDeny(d.Effective, e.Syscall):
		out.Kind = api.EventWatched
		out.Message = fmt.Sprintf("%s by %s let through: outside of observe mode it would be denied while serving", what(e), e.Comm)
	case d.Prediction.Runs > 0 && !known:
		out.Kind = api.EventLearned
		out.Message = fmt.Sprintf("%s by %s: no earlier run made this call; allowed and learned", e.Syscall, e.Comm)
	case serving && d.Prediction.Phases != nil && d.Prediction.Phases.Known && slices.Contains(d.Prediction.Phases.Start, e.Syscall):
		out.Kind = api.EventLearned
		out.Message = fmt.Sprintf("%s by %s: no earlier run made this call while serving; allowed and learned", e.Syscall, e.Comm)
	default:
		return // expected, or a first run in which everything is new
	}
	once := out.Kind + " " + e.Syscall
	if out.Kind == api.EventDenied && own {
		once += " " + e.Phase.String()
	}
	if c.told[once] {
		return
	}
	if c.told == nil {
		c.told = make(map[string]bool)
	}
	c.told[once] = true
	s.reporter.event(out)
	if out.Kind != api.EventLearned {
		c.urgent.call()
	}
}

// onNew is told of a destination or program that a container has not named before.
func (s *Service) onNew(container string) {
	if c := s.container(container); c != nil {
		c.urgent.call()
	}
}

// what is the call, with the program that an execution asked for.
func what(e seccomp.Event) string {
	if e.Program == "" {
		return e.Syscall
	}
	return fmt.Sprintf("%s of %s", e.Syscall, e.Program)
}

// tree is a denied caller's descent, the caller first: "sh(12) < nginx(7) < nginx(1)".
func tree(t []seccomp.Process) string {
	names := make([]string, len(t))
	for i, p := range t {
		names[i] = fmt.Sprintf("%s(%d)", p.Comm, p.PID)
	}
	return strings.Join(names, " < ")
}

// descent is the tree with the programs that ran, for people.
func descent(t []seccomp.Process) string {
	if len(t) == 0 {
		return ""
	}
	names := make([]string, len(t))
	for i, p := range t {
		names[i] = fmt.Sprintf("%s (pid %d, %s)", p.Comm, p.PID, p.Exe)
	}
	return "; processes: " + strings.Join(names, " < ")
}

// wouldDeny reports whether a serving workload's call passes because the container is only observed.
func wouldDeny(e policy.Effective, call string) bool {
	for _, f := range e.Fields {
		if f.Key == policy.KeyServing && f.NoValue && slices.Contains(f.Names, call) {
			return slices.ContainsFunc(f.Lost, func(l policy.Lost) bool { return l.Value < policy.SyscallWatch })
		}
	}
	return false
}

// onSupervisorError reports what went wrong with one container's supervision.
func (s *Service) onSupervisorError(container string, err error) {
	c := s.container(container)
	if c == nil {
		return
	}
	s.reporter.event(api.Event{
		Time: time.Now(), ID: c.id, Run: c.current().Facts.Run, Kind: api.EventDegraded,
		Message: "supervision of system calls: " + err.Error(),
	})
}

// whyDenied is the reason of a denial, with what would change it.
func whyDenied(e policy.Effective, ev seccomp.Event, own bool) string {
	call := ev.Syscall
	field, ok := e.Lookup(policy.KeySyscalls.Member(call))
	if own && ev.Phase != seccomp.Starting && (!ok || field.Value >= policy.SyscallWatch) {
		if f, ok := e.Lookup(policy.KeyServing.Member(call)); ok && f.Value < policy.SyscallWatch {
			if f.Author != policy.Default {
				return f.Source + " denies it while serving"
			}
			return f.Reason + "; `forefend set CONTAINER serving.allow=" + call + "` or annotation " + policy.Prefix + "serving.allow=" + call + " allows it"
		}
	}
	switch {
	case !ok:
		return "the profile does not allow it"
	case field.Value >= policy.SyscallWatch:
		return "not with these arguments (namespaces, for example, need a capability that speaks for them)"
	case field.Author == policy.Guardrail:
		return field.Source + " does not allow it"
	case field.Author == policy.Default:
		return field.Reason + "; annotation " + policy.Prefix + "syscalls.allow=" + call + " allows it where the profile grants that"
	}
	return field.Source + " denies it"
}
