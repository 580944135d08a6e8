package crash

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/crash/trace"
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
	nth  int                                // how often the process has come by; 0 and 1: the first time
	call func(s *scene, c *trace.Call) bool // nil: the process has just been executed
}

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
	{"bundle about to be read", opCreate, inShim, 1, opens("config.json")},
	{"before the decision", opCreate, inShim, 1, connects("forefend.sock")},
	{"after the decision", opCreate, inShim, 1, opens(".new-")},
	{"record written", opCreate, inShim, 1, renamed("record.json")},
	{"listening", opCreate, inShim, 1, bound("n")},
	{"original spec kept", opCreate, inShim, 1, linked("config.json.forefend-orig")},
	{"bundle committed", opCreate, inShim, 1, renamed("config.json")},
	{"runc create begins", opCreate, "create", 1, nil},
	{"runc create has a state", opCreate, "create", 1, renamed("state.json")},
	{"runc create handed over the listener", opCreate, "create", 1, connected("n")},
	{"runc create ends", opCreate, "create", 1, ends},
	{"created", opCreate, inShim, 2, opens(".new-")},
	{"created, recorded", opCreate, inShim, 2, renamed("record.json")},
	{"runc start begins", opStart, "start", 1, nil},
	{"runc start ends", opStart, "start", 1, ends},
	{"runc exec begins", opExec, "exec", 1, nil},
	{"runc exec handed over the listener", opExec, "exec", 1, connected("n")},
	{"runc exec ends", opExec, "exec", 1, ends},
	{"runc update begins", opUpdate, "update", 1, nil},
	{"runc update ends", opUpdate, "update", 1, ends},
	{"update recorded", opUpdate, inShim, 3, renamed("record.json")},
	{"runc kill begins", opKill, "kill", 1, nil},
	{"runc delete begins", opDelete, "delete", 1, nil},
	{"runc delete ends", opDelete, "delete", 1, ends},
	{"listener about to go", opDelete, inShim, 1, removes("n")},
	{"record about to go", opDelete, inShim, 1, removes("record.json")},
	{"record gone", opDelete, inShim, 1, removed("record.json")},
	{"decision about to be written", opCreate, inDaemon, 1, writes("DECISIONS")},
	{"decision written", opCreate, inDaemon, 1, synced("DECISIONS")},
	{"last observation about to be written", opDelete, inDaemon, 1, writes("RUNS")},
	{"last observation written", opDelete, inDaemon, 1, synced("RUNS")},
	{"bundle about to go", opDelete, inContainerd, 1, removes("config.json")},
}

func opens(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_OPENAT && !c.Done && s.ours(c.Path(0, 1)) && strings.HasPrefix(filepath.Base(c.Path(0, 1)), name)
	}
}

func renamed(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_RENAMEAT && c.Done && c.Result == 0 && filepath.Base(c.Path(2, 3)) == name
	}
}

func linked(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_LINKAT && c.Done && c.Result == 0 && filepath.Base(c.Path(2, 3)) == name
	}
}

// bound and connected are about the seccomp listeners in a directory of that name.
func bound(dir string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_BIND && c.Done && c.Result == 0 && filepath.Base(filepath.Dir(c.Socket(1))) == dir
	}
}

func connected(dir string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_CONNECT && c.Done && c.Result == 0 && filepath.Base(filepath.Dir(c.Socket(1))) == dir
	}
}

func connects(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool {
		return c.Number == unix.SYS_CONNECT && !c.Done && filepath.Base(c.Socket(1)) == name
	}
}

func ends(_ *scene, c *trace.Call) bool { return c.Number == unix.SYS_EXIT_GROUP }

// removing is the removal of a file of that name, or of one in a directory of that name.
func removing(s *scene, c *trace.Call, name string) bool {
	path := ""
	if c.Number == unix.SYS_UNLINKAT {
		path = c.Path(0, 1)
	}
	return s.ours(path) && (filepath.Base(path) == name || filepath.Base(filepath.Dir(path)) == name)
}

func removes(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool { return !c.Done && removing(s, c, name) }
}

func removed(name string) func(*scene, *trace.Call) bool {
	return func(s *scene, c *trace.Call) bool { return c.Done && c.Result == 0 && removing(s, c, name) }
}

// writes and synced are about the messages of a stream in the daemon's store.
func writes(stream string) func(*scene, *trace.Call) bool {
	return func(_ *scene, c *trace.Call) bool {
		return (c.Number == unix.SYS_WRITE || c.Number == unix.SYS_PWRITE64) && !c.Done && strings.Contains(c.File(0), "/streams/"+stream+"/msgs/")
	}
}

func synced(stream string) func(*scene, *trace.Call) bool {
	return func(_ *scene, c *trace.Call) bool {
		return (c.Number == unix.SYS_FSYNC || c.Number == unix.SYS_FDATASYNC) && c.Done && strings.Contains(c.File(0), "/streams/"+stream+"/msgs/")
	}
}

// ours tells whether a path is one of this environment.
func (s *scene) ours(path string) bool { return strings.HasPrefix(path, s.Dir+"/") }
