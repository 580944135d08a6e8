package shim

import (
	"time"

	"github.com/containerd/containerd/api/types/runc/options"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// Name is the runtime type that containerd maps to this shim's binary.
const Name = "io.containerd.forefend.v1"

// Config is what the shim needs of the node's configuration. All paths derive
// from one config file, so several instances live side by side.
type Config struct {
	Fault error // why there is no configuration: no container is created

	Containerd string           // GRPC address of the containerd that started this shim
	Path       string           // the config file itself, handed on to the daemon; empty for the defaults
	State      string           // root-only directory of sockets and run data
	Socket     string           // the daemon's
	Containers record.Dir       // records of running containers
	Sealed     record.SealedDir // last known policies, for the time without a daemon
	NotifyDir  string           // seccomp listener sockets
	SpoolDir   string           // final observations the daemon has not taken yet
	StartLock  string           // held while a shim starts the daemon
	DaemonLog  string
	Daemon     string // the forefend binary

	OnUnavailable string // "last-known", "open" or "closed"
	Privileged    string // "as-asked" or "govern"
	Site          policy.Site

	// Gates puts a gate into each container's cgroup; nil: networks of running containers cannot be changed.
	Gates Gates

	// RuncOptions reads runc's options from the TOML of a containerd that does not know this runtime.
	RuncOptions func(toml []byte) (*options.Options, error)

	Agents Agents // nil: containers get none
	// OnAgentEvent is told of what agents report, one event of a container at a time. Nil: nobody is told.
	OnAgentEvent func(workload.ID, AgentEvent)
	Egress       Egress        // leads outbound connections; nil: nobody does
	DecideWithin time.Duration // the decision about one of them
	Verify       time.Duration // from one comparison with gateways' receipts to the next; 0: none but those that people ask for
	AgentDelay   time.Duration // how long a container runs before it gets its agent; 0: it gets it before it starts
	Airbag       bool          // predicted memory limits may be hard ones
	Reserve      int64         // bytes of memory that the node keeps when they are raised

	AdmitDeadline time.Duration // for a running daemon to answer
	ColdStart     time.Duration // for a daemon to start
	Sample        time.Duration
	Checkpoint    time.Duration
	Quiet         time.Duration // without a start of anything: a server serves
}
