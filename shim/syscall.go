package shim

import (
	"fmt"
	"strconv"
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
	d := c.current()
	_, known := d.Prediction.Seen[e.Syscall]
	out := api.Event{Time: e.Time, ID: c.id, Run: d.Facts.Run, Fields: map[string]string{
		"syscall": e.Syscall, "pid": strconv.FormatUint(uint64(e.PID), 10), "comm": e.Comm, "exe": e.Exe,
		"verdict": e.Verdict.String(), "class": e.Class.String(),
	}}
	switch {
	case e.Verdict < seccomp.Watch:
		out.Kind = api.EventDenied
		out.Fields["errno"] = strconv.Itoa(int(e.Errno))
		out.Message = fmt.Sprintf("%s by %s denied: %s", e.Syscall, e.Comm, whyDenied(d.Effective, e.Syscall))
	case e.Class == seccomp.ClassDangerous && !known:
		out.Kind = api.EventWatched
		out.Message = fmt.Sprintf("%s by %s let through under watch", e.Syscall, e.Comm)
	case d.Prediction.Runs > 0 && !known:
		out.Kind = api.EventLearned
		out.Message = fmt.Sprintf("%s by %s: no earlier run made this call; allowed and learned", e.Syscall, e.Comm)
	default:
		return // expected, or a first run in which everything is new
	}
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
func whyDenied(e policy.Effective, call string) string {
	field, ok := e.Lookup(policy.KeySyscalls.Member(call))
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
