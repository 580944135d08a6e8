package api

import (
	"encoding/json"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// AgentRequest asks a shim, or the daemon, about a container's agent. With Now one that waits is injected first.
type AgentRequest struct {
	Version int         `json:"version"`
	Oldest  int         `json:"oldest,omitempty"` // see Understood; the client fills it in
	ID      workload.ID `json:"id"`
	Now     bool        `json:"now,omitempty"`
	Flows   bool        `json:"flows,omitempty"`  // fill Agent.Flows and Counters in
	Verify  bool        `json:"verify,omitempty"` // fill Agent.Receipts in
}

// How it stands with an agent.
const (
	AgentRunning = "running"
	AgentWaiting = "waiting" // it has not been injected yet
	AgentNone    = "none"    // the container has none
	AgentFailed  = "failed"  // it should run and does not
)

// Agent is how it stands with a container's agent. What the agent says of itself and sees is its claim.
type Agent struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"` // for waiting, none and failed; of a running one, why the last process ended

	PID          int            `json:"pid,omitempty"`
	UID          int            `json:"uid,omitempty"`
	Build        string         `json:"build,omitempty"`
	Kernel       string         `json:"kernel,omitempty"`
	Capabilities []string       `json:"capabilities,omitempty"`
	Features     []string       `json:"features,omitempty"`
	Degraded     []string       `json:"degraded,omitempty"`
	Uptime       time.Duration  `json:"uptime,omitempty"`
	CPU          time.Duration  `json:"cpu,omitempty"`
	Memory       int64          `json:"memory,omitempty"` // bytes from the kernel
	Files        int            `json:"files,omitempty"`
	Restarts     int            `json:"restarts,omitempty"`
	Faults       map[string]int `json:"faults,omitempty"` // of its channel, by kind

	Says string `json:"says,omitempty"` // STATUS= of the application

	Listening   []Socket `json:"listening,omitempty"`
	Connections []Socket `json:"connections,omitempty"`
	Left        int      `json:"left,omitempty"` // connections beyond those listed

	// Ways are what it asked tunnels for, and what was attached for it ahead of that, within AheadTook before the container's start.
	Ways      []AgentWay    `json:"ways,omitempty"`
	AheadTook time.Duration `json:"ahead_took,omitempty"`

	// Flows are the outbound connections that it takes, if they were asked for, in the words of netns/intercept; nil: it takes none.
	// Counters are what it has counted of all of them since it began.
	Flows    json.RawMessage `json:"flows,omitempty"`
	Counters json.RawMessage `json:"counters,omitempty"`
	// Receipts are what gateways say of them, if that was asked for.
	Receipts *Reconciled `json:"receipts,omitempty"`
}

// AgentWay is what a tunnel had to be (workload.Way).
type AgentWay struct {
	Way   string `json:"way"`
	Asked uint64 `json:"asked"` // how often
	Ahead bool   `json:"ahead"` // it was attached before that, because it was predicted
}

// Socket is a socket of a container's network namespace.
type Socket struct {
	Protocol string `json:"protocol"`
	State    string `json:"state"`
	Local    string `json:"local"`
	Remote   string `json:"remote,omitempty"`
	UID      uint32 `json:"uid"`
}
