package seccomp

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// Origins of an Event.
const (
	// OriginInit is for calls of the container's own processes.
	OriginInit = "init"
	// OriginExec is for calls of processes that were added by exec.
	OriginExec = "exec"
)

// Event reports the first time that a container's call got a verdict in a phase, or from an executed process. Later ones
// only raise the count that Container.Counts returns.
type Event struct {
	Container, Syscall string
	Number             int32
	Args               [6]uint64 // scalars as passed; pointers among them prove nothing
	PID                uint32    // the calling thread, as the shim's PID namespace numbers it
	Comm, Exe          string    // what ran when the call was made; empty when it could not be read
	Program            string    // what a denied execution was to run, by the path that was given: for the record only
	// Tree is, for a denial, who made the call and from whom it descends, up to the process that the runtime started.
	Tree    []Process
	Verdict Verdict // Watch (it passed), Deny or Kill
	Class   Class
	Errno   int32 // for Deny
	Count   uint64
	Origin  string
	Phase   Phase // of the container, when an own process made the call
	Time    time.Time
}

// Process is one of an Event's Tree, by the shim's PID namespace.
type Process struct {
	PID       int
	Comm, Exe string
}

// maxTree bounds an Event's Tree.
const maxTree = 16

// ancestry lists a waiting caller's process and those that it descends from, until root or whoever stands in its place.
func ancestry(pid uint32, root uint32) (tree []Process) {
	for p := int(pid); p > 1 && len(tree) < maxTree; {
		s, ok := statusOf(p)
		if !ok {
			break
		}
		comm, exe := caller(uint32(s.process))
		tree = append(tree, Process{PID: s.process, Comm: comm, Exe: exe})
		if s.process == int(root) || s.inner == 1 { // PID 1 of its namespace
			break
		}
		p = s.parent
	}
	return tree
}

// commLimit is longer than the kernel's TASK_COMM_LEN.
const commLimit = 64

// caller reads who makes a call. The thread waits for its answer, so it runs the
// same program until then; the answer's success tells that it was the same thread.
func caller(pid uint32) (comm, exe string) {
	dir := "/proc/" + strconv.FormatUint(uint64(pid), 10)
	raw, err := os.ReadFile(dir + "/comm")
	if err == nil {
		comm = string(bytes.TrimRight(raw[:min(len(raw), commLimit)], "\n"))
	}
	exe, _ = os.Readlink(dir + "/exe")
	return comm, exe
}
