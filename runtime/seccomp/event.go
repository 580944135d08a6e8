package seccomp

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// Phases of an Event.
const (
	// PhaseInit is for calls of the container's own processes.
	PhaseInit = "init"
	// PhaseExec is for calls of processes that were added by exec.
	PhaseExec = "exec"
)

// Event reports the first time that a container's call got a verdict. Later ones
// only raise the count that Container.Counts returns.
type Event struct {
	Container, Syscall string
	Number             int32
	Args               [6]uint64 // scalars as passed; pointers among them prove nothing
	PID                uint32    // the calling thread, as the shim's PID namespace numbers it
	Comm, Exe          string    // what ran when the call was made; empty when it could not be read
	Verdict            Verdict   // Watch (it passed), Deny or Kill
	Class              Class
	Errno              int32 // for Deny
	Count              uint64
	Phase              string
	Time               time.Time
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
