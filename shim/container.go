package shim

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/mounts"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// container is one container of this shim.
type container struct {
	id       workload.ID
	bundle   string
	notify   string     // path of its seccomp listener
	socket   string     // of the shim
	spec     specs.Spec // what execs are clipped to: the rewritten spec, without the parts no exec needs
	upper    string     // where writes to its root filesystem go, empty when that is not known
	systemd  bool       // runc uses the systemd cgroup driver
	agent    *seat      // nil before the container exists
	pid      int
	pidStart uint64
	cgroup   map[string]string // where it is in each hierarchy

	supervised *seccomp.Container // nil: nothing is supervised
	life       life               // its phases; begins with supervised
	told       map[string]bool    // events of its calls by kind, phase and name; onSyscall alone uses it
	devices    *cgroup.Devices    // nil: not changed yet; for who holds updating
	files      *mounts.Files      // what is mounted over its files; nil when that is not known; for who holds updating
	watch      *watch             // nil before the container exists
	urgent     urgency            // tells watch
	stdin      *stdinEnd          // nil when it has no standard input to watch
	gate       Gate               // nil: there is none
	gateless   error              // why there is none
	offline    bool               // it was created without a network, which no gate can give back
	passages   passages
	faults     faults

	execs    map[string]*stdinEnd // standard inputs of execs that are watched, by exec id; guarded by mu
	unlisted bool                 // no more of them are kept: the container is gone; guarded by mu

	saving   sync.Mutex // held while the record is put together and written
	updating sync.Mutex // held while a change is decided and applied; taken before mu
	direct   bool       // limits were set without runc; guarded by updating
	airbag   *bag       // that follows its predicted memory limit; nil: there is none; guarded by updating
	mu       sync.Mutex
	decision api.Decision          // guarded by mu once the container exists
	asked    *specs.LinuxResources // what was requested, updates included; guarded by mu
	started  time.Time             // when runc had created it
	deleting chan struct{}         // closed at the end of a Delete under way; nil: none is; guarded by mu
}

// addExecStdin keeps the watch of an exec's standard input until the exec is deleted.
func (c *container) addExecStdin(exec string, stdin *stdinEnd) {
	if stdin == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unlisted {
		stdin.close()
		return
	}
	if c.execs == nil {
		c.execs = make(map[string]*stdinEnd)
	}
	c.execs[exec] = stdin
}

// stdinOf is the watch of an exec's standard input, or with "" of the container's own; nil: there is none.
func (c *container) stdinOf(exec string) *stdinEnd {
	if exec == "" {
		return c.stdin
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.execs[exec]
}

// closeStdin ends the watch of an exec's standard input, or with "" all of the container's.
func (c *container) closeStdin(exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if exec != "" {
		c.execs[exec].close()
		delete(c.execs, exec)
		return
	}
	c.stdin.close()
	c.unlisted = true
	for _, stdin := range c.execs {
		stdin.close()
	}
}

// socketName is short and unique per container: a unix socket path has room
// for 107 bytes, a container id alone can have 76.
func socketName(id workload.ID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return hex.EncodeToString(sum[:10])
}

// save writes the container's record. Who writes last has the newest.
func (s *Service) save(c *container) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	return s.cfg.Containers.Write(c.record())
}

// record is what is kept on disk for the delete process and the daemon.
func (c *container) record() record.Record {
	agent := c.agent.recorded()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := record.Record{
		Version: record.Version, ID: c.id, Run: c.decision.Facts.Run, Facts: c.decision.Facts, Bundle: c.bundle,
		ShimPID: os.Getpid(), ShimStart: began(), PID: c.pid, PIDStart: c.pidStart,
		NotifySocket: c.notify, ShimSocket: c.socket, Brief: true, Resources: c.asked, Upper: c.upper, Cgroup: c.cgroup, Created: c.decision.Time, Started: c.started, Decision: &c.decision,
		Agent: agent,
	}
	return r
}

// began is when this process did.
var began = sync.OnceValue(func() uint64 {
	start, _ := record.Start(os.Getpid()) // our own entry in /proc
	return start
})

// end stops observing; the last observation is dropped.
func (c *container) end() {
	if c.watch != nil {
		c.watch.abandon()
	}
}

// current returns the decision in force.
func (c *container) current() api.Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decision
}

// put puts another decision in force.
func (c *container) put(d api.Decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decision = d
}

// ask notes what a client of containerd has asked for.
func (c *container) ask(update *specs.LinuxResources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = rewrite.Overlay(c.asked, update)
}
