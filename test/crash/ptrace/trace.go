package ptrace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mode is how closely a process is followed.
type Mode int

// The modes. A process that is new has that of the one that made it until it executes a program.
const (
	Follow Mode = iota // only what it starts is of interest
	Step               // every system call is
	Leave              // it runs free from here on, and what it starts too
)

// Handler decides what happens at each stop.
type Handler struct {
	// Exec chooses the mode of a process that has just executed a program.
	Exec func(p *Process) Mode
	// Call is told each system call of a process in mode Step, at its beginning and its end.
	Call func(c *Call)
	// Handling is held, if there is one, from before a stop is taken note of until its thread goes on. Who wants to end
	// this process takes it first: a signal that a thread has stopped for is lost when its tracer goes between the two,
	// and a SIGCHLD lost by a shim is a process that nobody ever waits for.
	Handling sync.Locker
}

// Process is a traced process.
type Process struct {
	PID  int
	Args []string // of the program it executes
	mode Mode
}

// Is tells whether the process runs the program name with the given words among its arguments.
func (p *Process) Is(name string, words ...string) bool {
	if len(p.Args) == 0 || filepath.Base(p.Args[0]) != name {
		return false
	}
	return !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(p.Args[1:], w) })
}

// tracer is one Run. One thread alone uses it.
type tracer struct {
	handler   Handler
	threads   map[int]*thread  // by thread id
	processes map[int]*Process // by process id
}

type thread struct {
	process *Process
	call    Call // under way
}

const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK |
	unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC

// Run traces the given processes, each in its mode, and whatever they start until none is left. It calls ready once it
// has them all.
// A process's end sets free what it traces. Run belongs into a process that has no other children: it waits for all,
// and a parent that waits for a child it traces itself is told of every stop.
func Run(handler Handler, processes map[int]Mode, ready func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := &tracer{handler: handler, threads: make(map[int]*thread), processes: make(map[int]*Process)}
	for pid, mode := range processes {
		if err := t.seize(mode, pid); err != nil {
			return fmt.Errorf("trace process %d: %w", pid, err)
		}
	}
	ready()
	return t.loop()
}

// seize takes every thread; those it starts meanwhile belong to a thread that is taken or are found by
// looking again.
func (t *tracer) seize(mode Mode, pid int) error {
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		found := false
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || t.threads[tid] != nil {
				continue
			}
			if err := request(unix.PTRACE_SEIZE, tid, 0, options); err != nil {
				if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPERM) && t.ours(tid) {
					continue // it has ended, or was born traced
				}
				return err
			}
			found = true
			t.thread(tid).process.mode = mode
			if mode == Step { // a running thread steps from its next stop on
				if err := request(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
					return err
				}
			}
		}
		if !found {
			return nil
		}
	}
}

// ours tells whether a thread has this thread as its tracer: it is a child of one that was taken.
func (t *tracer) ours(tid int) bool {
	tracer, err := statusField(tid, "TracerPid:")
	return err == nil && tracer == unix.Gettid()
}

// thread returns what is known of a thread, looking it up when it is new.
func (t *tracer) thread(tid int) *thread {
	if th := t.threads[tid]; th != nil {
		return th
	}
	pid, err := statusField(tid, "Tgid:")
	if err != nil {
		pid = tid // it is gone already
	}
	p := t.processes[pid]
	if p == nil {
		p = &Process{PID: pid, Args: args(pid)}
		if parent, err := statusField(tid, "PPid:"); err == nil && t.processes[parent] != nil {
			p.mode = t.processes[parent].mode
		}
		t.processes[pid] = p
	}
	th := &thread{process: p}
	t.threads[tid] = th
	return th
}

func (t *tracer) forget(tid int) {
	th := t.threads[tid]
	delete(t.threads, tid)
	if th != nil && tid == th.process.PID {
		delete(t.processes, tid)
	}
}

// loop handles stops until there is nothing to trace any more.
func (t *tracer) loop() error {
	for {
		// It leaves the stop where it is, for next.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait for a traced process: %w", err)
		}
		if err := t.next(); err != nil {
			return err
		}
	}
}

// next handles the stop, or the end, that there is.
func (t *tracer) next() error {
	if t.handler.Handling != nil {
		t.handler.Handling.Lock()
		defer t.handler.Handling.Unlock()
	}
	var status unix.WaitStatus
	tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECHILD), err == nil && tid == 0:
		return nil
	case err != nil:
		return fmt.Errorf("wait for a traced process: %w", err)
	case !status.Stopped():
		t.forget(tid)
		return nil
	}
	if err := t.stopped(tid, status); err != nil && !errors.Is(err, unix.ESRCH) { // killed while it stood still
		return fmt.Errorf("trace process %d: %w", tid, err)
	}
	return nil
}

// stopped handles one stop and lets the thread go on.
func (t *tracer) stopped(tid int, status unix.WaitStatus) error {
	th := t.thread(tid)
	signal, event := status.StopSignal(), int(status)>>16
	switch {
	case signal == unix.SIGTRAP|0x80:
		t.call(tid, th)
		return t.resume(tid, th, 0)
	case event == unix.PTRACE_EVENT_EXEC:
		t.executed(tid, th)
		return t.resume(tid, th, 0)
	case event == unix.PTRACE_EVENT_STOP && signal != unix.SIGTRAP: // it is to stand still, as a shell's job does
		return request(unix.PTRACE_LISTEN, tid, 0, 0)
	case event != 0:
		return t.resume(tid, th, 0)
	}
	return t.resume(tid, th, int(signal))
}

// executed takes note of a new program. All other threads of the process have ended without a word.
func (t *tracer) executed(tid int, th *thread) {
	for other, o := range t.threads {
		if o.process == th.process && other != tid {
			delete(t.threads, other)
		}
	}
	p := th.process
	p.Args = args(p.PID)
	if t.handler.Exec != nil {
		p.mode = t.handler.Exec(p)
	}
	th.call = Call{}
}

func (t *tracer) resume(tid int, th *thread, signal int) error {
	switch th.process.mode {
	case Step:
		return request(unix.PTRACE_SYSCALL, tid, 0, signal)
	case Leave:
		t.forget(tid)
		return request(unix.PTRACE_DETACH, tid, 0, signal)
	}
	return request(unix.PTRACE_CONT, tid, 0, signal)
}

func request(what, tid, addr, data int) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(what), uintptr(tid), uintptr(addr), uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func args(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

func statusField(tid int, field string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), field)
	if !ok {
		return 0, fmt.Errorf("no %s in the status of %d", field, tid)
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(strings.TrimSpace(line))
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h, for entry and exit.
type syscallInfo struct {
	op     uint8
	_      [3]uint8
	_      uint32 // architecture
	_, _   uint64 // instruction and stack pointer
	first  uint64 // the call's number, or its result
	args   [6]uint64
	_, _   uint64
	filler [16]byte
}

const (
	ptraceGetSyscallInfo = 0x420e
	infoEntry            = 1
	infoExit             = 2
)

func getSyscallInfo(tid int) (syscallInfo, error) {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return info, errno
	}
	return info, nil
}
