package seccomp

import (
	"bytes"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/workload"
)

// recent is the order of a container's watched calls since it was last taken, as much of it as there is room for. It costs
// a call some tens of nanoseconds, beside the microseconds of being watched, and nothing until the first.
type recent struct {
	mu    sync.Mutex // guards all below
	from  time.Time
	calls []recentCall
	lost  uint64
}

// recentCall is a call, or several equal ones of a thread in a row.
type recentCall struct {
	millis uint32 // since from
	thread uint32
	nr     int32
	count  uint32
}

// add notes a call of this machine's own architecture.
func (r *recent) add(nr int32, thread uint32, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.from.IsZero() {
		r.from = now
	}
	if n := len(r.calls); n > 0 && r.calls[n-1].nr == nr && r.calls[n-1].thread == thread && r.calls[n-1].count < 1<<16 &&
		uint32(now.Sub(r.from)/time.Millisecond)-r.calls[n-1].millis < mergeMillis {
		r.calls[n-1].count++
		return
	}
	if len(r.calls) == workload.MaxTrace {
		r.lost++
		return
	}
	r.calls = append(r.calls, recentCall{uint32(now.Sub(r.from) / time.Millisecond), thread, nr, 1})
}

// mergeMillis is how far apart equal calls may be to share an entry: less than what reads the order counts together.
const mergeMillis = 50

// take returns what was noted since the last take, nil for nothing.
func (r *recent) take() *workload.Trace {
	r.mu.Lock()
	calls, from, lost := r.calls, r.from, r.lost
	r.calls, r.from, r.lost = nil, time.Time{}, 0
	r.mu.Unlock()
	if len(calls) == 0 && lost == 0 {
		return nil
	}
	t := &workload.Trace{From: from, Lost: lost}
	var previous workload.Call
	for _, c := range calls {
		name, ok := nativeNumbering().name(int(c.nr))
		if !ok {
			t.Lost += uint64(c.count)
			continue
		}
		call := workload.Call{At: time.Duration(c.millis) * time.Millisecond, Thread: c.thread, Name: name, Count: int(c.count)}
		t.Add(previous, call)
		previous = call
	}
	return t
}

// maxProgram is more than any program's path has, and less than would fill a record.
const maxProgram = 256

// program returns the path that a waiting execve was given, "" for another call, and whether it is one. It is for the record
// only: another thread may change the path before the kernel reads it. Nothing is looked up in the container's files:
// its file systems may keep whoever does waiting.
func (r *responder) program(c *Container) (path string, executes bool) {
	if r.n.arch != nativeAuditArch {
		return "", false
	}
	at := r.n.args[0]
	switch r.n.nr {
	case unix.SYS_EXECVE:
	case unix.SYS_EXECVEAT:
		at = r.n.args[1]
	default:
		return "", false
	}
	if at == 0 || !c.programBudget.take(time.Now()) {
		return "", true
	}
	return readPath(int(r.n.pid), uintptr(at)), true
}

// readPath reads a NUL-terminated path of another process, "" when it cannot be read or does not end in time.
func readPath(pid int, at uintptr) string {
	var buf [maxProgram]byte
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	page := uintptr(os.Getpagesize())
	first := min(page-at%page, uintptr(len(buf))) // what is behind the page's end may not be mapped
	remote := []unix.RemoteIovec{{Base: at, Len: int(first)}}
	if rest := len(buf) - int(first); rest > 0 {
		remote = append(remote, unix.RemoteIovec{Base: at + first, Len: rest})
	}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err != nil {
		return ""
	}
	end := bytes.IndexByte(buf[:n], 0)
	if end < 0 {
		return ""
	}
	return string(buf[:end])
}
