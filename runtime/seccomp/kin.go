package seccomp

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kinCalls reach into another process by its number or descriptor. A debugger, a
// leak checker or a message-passing library makes them among its own processes,
// where they give nothing that it does not have; an intruder among others'.
const kinCalls = `ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp`

// AmongKin reports whether a denial of the named call can be limited to other
// processes than the caller's own (Request.Kin).
func AmongKin(name string) bool {
	for kin := range strings.FieldsSeq(kinCalls) {
		if kin == name {
			return true
		}
	}
	return false
}

// amongKin reports whether the call at hand reaches only for the caller's kin:
// itself, what shares its memory, its descendants, and but for ptrace other
// processes of the same program. What cannot be found out is not kin.
//
// A number is looked up while the caller waits, and the kernel looks again: a
// target that is gone by then, its number reused, escapes the check. The answer
// narrows what an intruder finds convenient; the wall between processes is the
// kernel's own (uid, capabilities, dumpable), which /proc/PID/mem obeys as well.
func (r *responder) amongKin() bool {
	name, _ := numberingOf(r.n.arch).name(int(r.n.nr))
	caller, args := int(r.n.pid), &r.n.args
	switch name {
	case "ptrace":
		switch args[0] {
		case unix.PTRACE_TRACEME: // of a child that is still its parent's code
			return justForked(caller)
		case unix.PTRACE_ATTACH, unix.PTRACE_SEIZE:
			return closeKin(caller, inCallers(caller, intArgument(args[1])))
		}
		return true // these need a tracee, which one of the above made
	case "process_vm_readv", "process_vm_writev":
		return kin(caller, inCallers(caller, intArgument(args[0])))
	case "process_madvise", "pidfd_getfd":
		return kin(caller, behind(caller, intArgument(args[0])))
	case "kcmp":
		return kin(caller, inCallers(caller, intArgument(args[0]))) && kin(caller, inCallers(caller, intArgument(args[1])))
	}
	return false
}

// asksForFilterStops reports whether the call at hand asks the kernel to stop a tracee where a filter of the tracer's own
// says SECCOMP_RET_TRACE. A watched call that passes never comes to such a stop: of two filters' answers the kernel obeys
// the stricter one, ours, and continues behind both. A tracer that lost some of its stops would go wrong in ways nobody
// can explain, or take for confined what is not. One that is told that there are none does without.
func (r *responder) asksForFilterStops() bool {
	if name, _ := numberingOf(r.n.arch).name(int(r.n.nr)); name != "ptrace" {
		return false
	}
	const oldSetOptions = 21 // x86's and 32-bit ARM's PTRACE_OLDSETOPTIONS; nothing elsewhere
	switch r.n.args[0] {
	case unix.PTRACE_SETOPTIONS, unix.PTRACE_SEIZE, oldSetOptions:
		return r.n.args[3]&unix.PTRACE_O_TRACESECCOMP != 0
	}
	return false
}

// intArgument reads an argument as the kernel does where it takes an int.
func intArgument(arg uint64) int { return int(int32(arg)) }

func kin(caller, target int) bool {
	return target > 0 && (closeKin(caller, target) || sameProgram(caller, target))
}

// closeKin holds for the caller's process, its descendants, and processes that
// share its memory.
func closeKin(caller, target int) bool {
	if target <= 0 {
		return false
	}
	own, ok := statusOf(caller)
	if !ok {
		return false
	}
	const generations = 256 // bounds the climb; no honest tree is so deep
	for p, n := target, 0; p > 1 && n < generations; n++ {
		s, ok := statusOf(p)
		if !ok {
			return false
		}
		if s.process == own.process {
			return true
		}
		p = s.parent
	}
	return sharesMemory(caller, target)
}

// sharesMemory holds for threads and for what clone made with CLONE_VM: the
// tracer of a leak checker.
func sharesMemory(a, b int) bool {
	const kcmpVM = 1
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && order == 0
}

// sameProgram holds for processes that execute the same file.
func sameProgram(a, b int) bool {
	x, err := os.Stat(processDir(a, "exe"))
	if err != nil {
		return false
	}
	y, err := os.Stat(processDir(b, "exe"))
	return err == nil && os.SameFile(x, y)
}

// justForked holds until a process's first execve.
func justForked(pid int) bool {
	const forkNoExec, flagsField = 0x40, 6 // PF_FORKNOEXEC; fields behind the parenthesis count from the state
	raw, err := os.ReadFile(processDir(pid, "stat"))
	if err != nil {
		return false
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) <= flagsField {
		return false
	}
	flags, err := strconv.ParseUint(f[flagsField], 10, 64)
	return err == nil && flags&forkNoExec != 0
}

// inCallers translates a number of the caller's PID namespace; 0 when there is no such process.
func inCallers(caller, nr int) int {
	if nr <= 0 {
		return 0
	}
	ns, err := os.Open(processDir(caller, "ns/pid"))
	if err != nil {
		return 0
	}
	defer ns.Close()
	pid, _, errno := unix.Syscall(unix.SYS_IOCTL, ns.Fd(), unix.NS_GET_PID_FROM_PIDNS, uintptr(nr))
	switch errno {
	case 0:
		return int(pid)
	case syscall.ENOTTY, syscall.EINVAL: // before Linux 6.11
		return searched(caller, nr)
	}
	return 0
}

// searched is inCallers by reading through /proc.
func searched(caller, nr int) int {
	namespace, err := os.Readlink(processDir(caller, "ns/pid"))
	if err != nil {
		return 0
	}
	all, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, link := range all {
		if theirs, err := os.Readlink(link); err != nil || theirs != namespace {
			continue
		}
		tasks, _ := os.ReadDir(filepath.Join(filepath.Dir(filepath.Dir(link)), "task"))
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				continue
			}
			if s, ok := statusOf(tid); ok && s.inner == nr {
				return tid
			}
		}
	}
	return 0
}

// behind returns the process that a pidfd of the caller stands for.
func behind(caller, fd int) int {
	const pidfdSelf, pidfdSelfProcess = -10000, -10001 // PIDFD_SELF_THREAD, PIDFD_SELF_THREAD_GROUP
	if fd == pidfdSelf || fd == pidfdSelfProcess {
		return caller
	}
	raw, err := os.ReadFile(processDir(caller, "fdinfo/"+strconv.Itoa(fd)))
	if err != nil {
		return 0
	}
	return field(string(raw), "Pid:", first)
}

// status is what /proc says of a task.
type status struct {
	process, parent int
	inner           int // its number in its own PID namespace
}

func statusOf(pid int) (status, bool) {
	raw, err := os.ReadFile(processDir(pid, "status"))
	if err != nil {
		return status{}, false
	}
	text := string(raw)
	s := status{process: field(text, "Tgid:", first), parent: field(text, "PPid:", first), inner: field(text, "NSpid:", last)}
	return s, s.process > 0
}

func first(words []string) string { return words[0] }
func last(words []string) string  { return words[len(words)-1] }

// field reads a number of the line that begins with key; 0 when there is none.
func field(text, key string, pick func([]string) string) int {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				n, _ := strconv.Atoi(pick(words))
				return n
			}
		}
	}
	return 0
}

func processDir(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }
