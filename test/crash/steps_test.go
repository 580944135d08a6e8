package crash

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/crash/ptrace"
)

// where is the process whose step it is: one of these, or the runc command of that name.
type where string

const (
	inShim       where = "the shim"
	inDaemon     where = "the daemon"
	inContainerd where = "containerd"
)

// step is a point in a container's life, between two effects of one process.
type step struct {
	name string
	op   string // the client's call during which it comes
	in   where
	nth  int                                 // how often the process has come by; 0 and 1: the first time
	call func(s *scene, c *ptrace.Call) bool // nil: the process has just been executed
	not  victim                              // who does not exist then
}

// victims are all there are.
var victims = []victim{shim, daemon, containerd, runc}

// has tells whether a victim is there at this step.
func (s step) has(v victim) bool {
	if v == runc {
		return s.in != inShim && s.in != inDaemon && s.in != inContainerd
	}
	return v != s.not
}

// outcome is what the client sees when a victim is killed at this step, in a word for docs/crashes.md.
func (s step) outcome(v victim) string {
	switch {
	case !s.has(v):
		return "–"
	case v == daemon:
		return unnoticed
	case s.in == inDaemon: // nobody in particular waits for what the daemon writes
		return "a call fails"
	}
	return s.op + " fails"
}

const unnoticed = "unnoticed"

type stepList []step

func (l stepList) find(name string) (step, bool) {
	for _, s := range l {
		if s.name == name {
			return s, true
		}
	}
	return step{}, false
}

// The client's calls, in the order of a life.
const (
	opCreate = "create"
	opStart  = "start"
	opExec   = "exec"
	opUpdate = "update"
	opKill   = "kill"
	opDelete = "delete"
)

var steps = stepList{
	{name: "bundle about to be read", op: opCreate, in: inShim, call: opens("config.json")},
	{name: "before the decision", op: opCreate, in: inShim, call: connects("forefend.sock")},
	{name: "after the decision", op: opCreate, in: inShim, call: opens(".new-")},
	{name: "record written", op: opCreate, in: inShim, call: renamed("record.json")},
	{name: "listening", op: opCreate, in: inShim, call: bound("n")},
	{name: "original spec kept", op: opCreate, in: inShim, call: linked("config.json.forefend-orig")},
	{name: "bundle committed", op: opCreate, in: inShim, call: renamed("config.json")},
	{name: "runc create begins", op: opCreate, in: "create"},
	{name: "runc create has cgroups", op: opCreate, in: "create", call: madeCgroup},
	{name: "runc create has a state", op: opCreate, in: "create", call: renamed("state.json")},
	{name: "runc create handed over the listener", op: opCreate, in: "create", call: connected("n")},
	{name: "runc create ends", op: opCreate, in: "create", call: ends},
	{name: "created", op: opCreate, in: inShim, nth: 2, call: opens(".new-")},
	{name: "created, recorded", op: opCreate, in: inShim, nth: 2, call: renamed("record.json")},
	{name: "runc start begins", op: opStart, in: "start"},
	{name: "runc start ends", op: opStart, in: "start", call: ends},
	{name: "runc exec begins", op: opExec, in: "exec"},
	{name: "runc exec handed over the listener", op: opExec, in: "exec", call: connected("n")},
	{name: "runc exec ends", op: opExec, in: "exec", call: ends},
	{name: "runc update begins", op: opUpdate, in: "update"},
	{name: "runc update ends", op: opUpdate, in: "update", call: ends},
	{name: "update recorded", op: opUpdate, in: inShim, nth: 3, call: renamed("record.json")},
	{name: "runc kill begins", op: opKill, in: "kill"},
	{name: "runc delete begins", op: opDelete, in: "delete"},
	{name: "runc delete ends", op: opDelete, in: "delete", call: ends},
	{name: "listener about to go", op: opDelete, in: inShim, call: removes("n")},
	{name: "record about to go", op: opDelete, in: inShim, call: removes("record.json")},
	{name: "record gone", op: opDelete, in: inShim, call: removed("record.json")},
	{name: "removal noted", op: opDelete, in: inShim, call: renamed("forefend-removed")},
	{name: "decision about to be written", op: opCreate, in: inDaemon, call: writes("DECISIONS")},
	{name: "decision written", op: opCreate, in: inDaemon, call: synced("DECISIONS")},
	{name: "last observation about to be written", op: opDelete, in: inDaemon, call: writes("RUNS")},
	{name: "last observation written", op: opDelete, in: inDaemon, call: synced("RUNS")},
	{name: "sealed policy about to be in force", op: opCreate, in: inDaemon, call: renames(".sealed")},
	{name: "bundle about to be made", op: opCreate, in: inContainerd, call: opens("config.json"), not: shim},
	{name: "bundle about to go", op: opDelete, in: inContainerd, call: removes("config.json"), not: shim},
}

func opens(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_OPENAT && !c.Done && s.ours(c.Path(0, 1)) && strings.HasPrefix(filepath.Base(c.Path(0, 1)), name)
	}
}

func renamed(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_RENAMEAT && c.Done && c.Result == 0 && filepath.Base(c.Path(2, 3)) == name
	}
}

func renames(suffix string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return s.begun() && c.Number == unix.SYS_RENAMEAT && !c.Done && strings.HasSuffix(c.Path(2, 3), suffix)
	}
}

func linked(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_LINKAT && c.Done && c.Result == 0 && filepath.Base(c.Path(2, 3)) == name
	}
}

// bound and connected are about the seccomp listeners in a directory of that name.
func bound(dir string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_BIND && c.Done && c.Result == 0 && filepath.Base(filepath.Dir(c.Socket(1))) == dir
	}
}

func connected(dir string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_CONNECT && c.Done && c.Result == 0 && filepath.Base(filepath.Dir(c.Socket(1))) == dir
	}
}

func connects(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return c.Number == unix.SYS_CONNECT && !c.Done && filepath.Base(c.Socket(1)) == name
	}
}

// ends is about the command itself: Go programs make children that only end, to learn what the kernel can do.
func ends(s *scene, c *ptrace.Call) bool {
	return c.Number == unix.SYS_EXIT_GROUP && c.Process.PID == s.runc
}

func madeCgroup(s *scene, c *ptrace.Call) bool {
	return c.Number == unix.SYS_MKDIRAT && c.Done && c.Result == 0 && filepath.Base(c.Path(0, 1)) == s.ID &&
		strings.HasPrefix(c.Path(0, 1), "/sys/fs/cgroup/")
}

// removing is the removal of a file of that name, or of one in a directory of that name.
func removing(s *scene, c *ptrace.Call, name string) bool {
	path := ""
	if c.Number == unix.SYS_UNLINKAT {
		path = c.Path(0, 1)
	}
	return s.ours(path) && (filepath.Base(path) == name || filepath.Base(filepath.Dir(path)) == name)
}

func removes(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool { return !c.Done && removing(s, c, name) }
}

func removed(name string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool { return c.Done && c.Result == 0 && removing(s, c, name) }
}

// begun tells whether this cell's container has a shim: what the daemon writes before is late news of another one.
func (s *scene) begun() bool { return s.shim != 0 }

// writes and synced are about the messages of a stream in the daemon's store.
func writes(stream string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return s.begun() && (c.Number == unix.SYS_WRITE || c.Number == unix.SYS_PWRITE64) && !c.Done && strings.Contains(c.File(0), "/streams/"+stream+"/msgs/")
	}
}

func synced(stream string) func(*scene, *ptrace.Call) bool {
	return func(s *scene, c *ptrace.Call) bool {
		return s.begun() && (c.Number == unix.SYS_FSYNC || c.Number == unix.SYS_FDATASYNC) && c.Done && strings.Contains(c.File(0), "/streams/"+stream+"/msgs/")
	}
}

// ours tells whether a path is one of this environment.
func (s *scene) ours(path string) bool { return strings.HasPrefix(path, s.Dir+"/") }
