package workload

import (
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// ObservationVersion is the version of the Observation format. Raise it when a
// reader of the old format would misread a record, and keep a golden file of
// the old one.
const ObservationVersion = 1

// Bounds of one Observation; what exceeds them is counted, not kept.
const (
	MaxSyscalls     = 512
	MaxDestinations = 256
	MaxSeries       = 64
	MaxPrograms     = 256
	MaxFaults       = 16
	MaxWays         = 16
)

// ReceiptFault begins the word of a fault that a gateway's receipts tell of.
const ReceiptFault = "receipt-"

// Observation is what was seen of one run, cumulative since its start. The
// last one of a run has Final set; the ones before are checkpoints of the same
// Run and replace each other.
type Observation struct {
	Version int    `json:"version"`
	ID      ID     `json:"id"`
	Run     string `json:"run"`
	Name    string `json:"name,omitempty"`
	Keys    []Key  `json:"keys"`
	User    string `json:"user,omitempty"`
	Group   string `json:"group,omitempty"`
	Image   string `json:"image,omitempty"`

	// What was known before the run began; see Facts.
	Repository string               `json:"repository,omitempty"`
	Program    string               `json:"program,omitempty"`
	Requested  Requested            `json:"requested,omitzero"`
	Prior      evidence.MemoryPrior `json:"prior,omitzero"`
	Predicted  *Predicted           `json:"predicted,omitempty"` // nil: nobody predicted

	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Final   bool      `json:"final,omitempty"`
	Exit    Exit      `json:"exit"`
	Usage   Usage     `json:"usage"`

	// Syscalls counts watched calls that were let through, by name. A name in
	// Native was at full speed in the kernel and therefore not counted: absence
	// from Syscalls says nothing about it.
	Syscalls map[string]uint64 `json:"syscalls,omitempty"`
	Denied   map[string]uint64 `json:"denied,omitempty"`
	Native   []string          `json:"native,omitempty"`
	Watched  bool              `json:"watched"` // a supervisor saw this run's watched calls from its first instruction

	// Served is how long the run has served, in seconds; 0: it has not come to that, or nobody can tell. Serving and Stopping
	// are the part of Syscalls that its own processes made meanwhile, and after it was told to end.
	Served   float64           `json:"served,omitempty"`
	Serving  map[string]uint64 `json:"serving,omitempty"`
	Stopping map[string]uint64 `json:"stopping,omitempty"`
	Stopped  bool              `json:"stopped,omitempty"` // it was told to end

	// Destinations counts connects by "proto/address:port".
	Destinations     map[string]uint64 `json:"destinations,omitempty"`
	DestinationsLost uint64            `json:"destinations_lost,omitempty"`
	// Refused counts, likewise, packets that were not let through to a destination; at most MaxDestinations of them are told apart.
	Refused     map[string]uint64 `json:"refused,omitempty"`
	RefusedLost uint64            `json:"refused_lost,omitempty"`

	// Programs counts executions by the path that was given to execve. It is for the record only: the program may change
	// the path while the kernel reads it.
	Programs     map[string]uint64 `json:"programs,omitempty"`
	ProgramsLost uint64            `json:"programs_lost,omitempty"`
	// Trace is not cumulative: it begins where the observation before ended.
	Trace *Trace `json:"trace,omitempty"`

	// Faults counts what the run's agent did against the rules of its channel, by the word for it, and what gateways' receipts
	// contradict, by ReceiptFault and a word.
	Faults map[string]uint64 `json:"faults,omitempty"`

	// Ways counts what its agent asked tunnels for, by what they had to be (Way.String). It is what the agent says.
	Ways map[string]uint64 `json:"ways,omitempty"`
	// Ahead are those of Ways that were there before the run began, because they were predicted; Missed those that were
	// there and never asked for.
	Ahead  []string `json:"ahead,omitempty"`
	Missed []string `json:"missed,omitempty"`

	RootfsWrites Tristate `json:"rootfs_writes,omitempty"`

	// Findings are the daemon's, made of this run's reports; without forecasts.
	Findings evidence.Findings `json:"findings,omitzero"`
}

// Tristate is a fact that may be unknown.
type Tristate string

// The states of a Tristate; the zero value is unknown.
const (
	Unknown Tristate = ""
	No      Tristate = "no"
	Yes     Tristate = "yes"
)

// Exit is how a run ended. It is meaningful only in a final Observation.
type Exit struct {
	Status uint32 `json:"status"`         // as containerd reports it: 128+n for signal n
	Lost   bool   `json:"lost,omitempty"` // nobody saw the exit: Status is a guess
}

// Usage is what a run used. Sizes are bytes, CPU is seconds or cores.
type Usage struct {
	MemoryPeak int64   `json:"memory_peak"` // highest of the kernel's own watermark and the samples
	MemoryLast int64   `json:"memory_last"`
	MemoryNeed int64   `json:"memory_need,omitempty"` // of MemoryLast what the kernel could not have taken away; 0: not measured
	CPUSeconds float64 `json:"cpu_seconds"`
	CPUPeak    float64 `json:"cpu_peak"` // cores, highest over one sampling interval
	PIDsPeak   int64   `json:"pids_peak"`
	Received   float64 `json:"rx_peak,omitempty"` // bytes/s, highest over one sampling interval; 0: not measured
	Sent       float64 `json:"tx_peak,omitempty"` // likewise
	Throttled  float64 `json:"throttled_seconds"`
	OOMKills   int64   `json:"oom_kills"`
	MemoryFail int64   `json:"memory_limit_hits"`
	Raises     int64   `json:"memory_raises,omitempty"` // of a predicted limit, before it was reached
	ReadBytes  int64   `json:"read_bytes"`
	WriteBytes int64   `json:"write_bytes"`
	Samples    int64   `json:"samples"`
	Series     []Point `json:"series,omitempty"` // evenly thinned to at most MaxSeries points
}

// Point is one aggregated interval of a usage series.
type Point struct {
	Seconds float64 `json:"s"`   // end of the interval, since start
	Memory  int64   `json:"mem"` // bytes, highest in the interval
	CPU     float64 `json:"cpu"` // cores, mean over the interval
	PIDs    int64   `json:"pids"`
}
