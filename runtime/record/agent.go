package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
)

// Agent is what ending a container's agent needs.
type Agent struct {
	PID    int    `json:"pid,omitempty"`   // 0: none runs, or its start was cut short
	Start  uint64 `json:"start,omitempty"` // Start(PID)
	Cgroup string `json:"cgroup"`          // its own, below the root of each hierarchy
}

// agentName is how the program of an agent is called.
const agentName = "forefend-agent"

// Leaving is how long a killed agent may take to be gone.
const leaving = 2 * time.Second

// EndAgent ends the agent of a record whose shim is gone, stopped or not, and removes its cgroup. It may be called
// again, and for a record without an agent. An agent ends by itself with its shim: this is for one that cannot.
func (r Record) EndAgent() error {
	if r.Agent == nil {
		return nil
	}
	if !strings.HasPrefix(r.Agent.Cgroup, "forefend/agent/") || !filepath.IsLocal(r.Agent.Cgroup) {
		return fmt.Errorf("agent of %s: cgroup %q is not an agent's", r.ID, r.Agent.Cgroup)
	}
	group, err := cgroup.Named(r.Agent.Cgroup)
	if err != nil {
		return fmt.Errorf("agent of %s: %w", r.ID, err)
	}
	if !group.Exists() { // then it has joined none, or is gone: it ends with its channel
		return nil
	}
	if r.sameBoot() && alive(r.Agent.PID, r.Agent.Start) {
		if err := kill(r.Agent.PID, r.Agent.Start); err != nil {
			return fmt.Errorf("agent of %s: %w", r.ID, err)
		}
	}
	for deadline := time.Now().Add(leaving); ; time.Sleep(5 * time.Millisecond) {
		err := group.Remove()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		for _, pid := range orphans(group) { // one whose start the shim did not live to record
			_ = unix.Kill(pid, unix.SIGKILL) // the next round sees whether it helped
		}
	}
}

// kill ends the process if it is still the one that started then.
func kill(pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !alive(pid, start) { // another by now
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// orphans lists the agents in a cgroup whose parent is no shim any more: another container of that name, in another
// namespace of containerd, may have one in there too.
func orphans(group cgroup.Group) []int {
	var found []int
	for _, dir := range group.Map() {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for line := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(line)
			if err == nil && commandOf(pid) == agentName && !strings.HasPrefix(commandOf(parentOf(pid)), "containerd-shim") {
				found = append(found, pid)
			}
		}
		return found // the same processes are in every hierarchy
	}
	return nil
}

func commandOf(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// parentOf is the parent's number, field 4 of proc_pid_stat(5); 0 where there is no such process.
func parentOf(pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(data), ") ")
	if fields := strings.Fields(rest); ok && len(fields) > 1 {
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			return parent
		}
	}
	return 0
}
