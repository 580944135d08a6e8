package host

import (
	"context"
	"encoding/json"
	"os/exec"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
)

// Config is what a Host needs of its shim.
type Config struct {
	Binary string // the agent's, an absolute path
	Empty  string // a directory that is made where missing, empty, and becomes the agents' root
	// Start starts a command and returns a function that waits for its end. It must start it on the calling thread.
	Start func(*exec.Cmd) (wait func() error, err error)
	// Join moves a process into a cgroup of every hierarchy, Leave removes that cgroup once nobody is in it.
	Join  func(cgroup string, pid int) error
	Leave func(cgroup string) error
}

// Target is a container to inject an agent into.
type Target struct {
	Name     string // for messages
	PID      int    // its first process, or another one in its namespaces
	PIDStart uint64 // when that started, in ticks since boot: it must not be another by now
	Cgroup   string // the agent's, below the root of each hierarchy
	Notify   string // abstract name of the application's socket, without "@"; empty: none

	// Event is told what the agent reports, Changed of each start and end of the agent. Both may block and are called from one
	// goroutine at a time, of the Agent's own. Nil: nobody is told.
	Event   func(api.Event)
	Changed func(Change)

	Intercept *Intercept // nil: the agent takes no connections
}

// Intercept has agents take the outbound connections of their network namespace. Its functions may be called from several goroutines.
type Intercept struct {
	// Settings are those of an agent that starts.
	Settings func() json.RawMessage
	// Ready is told of each agent's port, once it takes connections there, and leads them to it. Its error is that of the agent's start.
	Ready func(ctx context.Context, port uint16) error
	// Ask answers what an agent asks. It is a claim of whoever may have taken the agent over.
	Ask func(ctx context.Context, method string, body []byte) ([]byte, error)
}

// Change is the start or the end of an agent's process.
type Change struct {
	PID     int    // 0: none runs now
	Start   uint64 // when it started, in ticks since boot
	Reason  string // why the one before ended, or could not be started
	Fault   string // the word for what it did to the channel, "" for nothing
	Outage  time.Duration
	Restart int // how often one was started again
}

// Deadlines and intervals.
const (
	// startDeadline is how long an agent may take from its start to the end of the handshake, on a machine
	// that is short of everything.
	startDeadline = 8 * time.Second
	callDeadline  = 2 * time.Second
	// pollWait is how long a call for events waits. Its answer is also the sign of life: one that is overdue by grace ends the agent.
	pollWait = 30 * time.Second
	// askDeadline is how long an answer to an agent may take: a tunnel may have to be attached for it.
	askDeadline = 10 * time.Second
	grace       = 3 * time.Second
	// drainTime is how long the end of what a process that has ended had sent is waited for.
	drainTime = 20 * time.Millisecond
	// pace is the least time from one call for events to the next.
	pace = 20 * time.Millisecond
	// dyingDeadline is how long a killed process may take to be gone.
	dyingDeadline = 2 * time.Second
)

// What an agent may send, beyond which it is cut off: events are a few hundred bytes.
const (
	rate  = 256 << 10 // bytes a second
	burst = 2 << 20
)

// How often an agent that keeps dying is started again: at once so many times, then once in a while.
const (
	quickRestarts = 20
	slowRestart   = time.Second
)

// Host injects agents.
type Host struct{ cfg Config }

// New makes a Host.
func New(cfg Config) *Host { return &Host{cfg: cfg} }

// Binary is the path of the agent's program.
func (h *Host) Binary() string { return h.cfg.Binary }
