package workload

// Prediction is what the predictor expects of a run before it starts.
type Prediction struct {
	Runs   int    `json:"runs"`            // runs of the most exact key that has any
	Level  string `json:"level,omitempty"` // that key's level; empty: no history at all
	Memory Bound  `json:"memory"`          // bytes, peak
	CPU    Bound  `json:"cpu"`             // cores, one-second peak
	PIDs   Bound  `json:"pids"`            // processes and threads, peak

	Received Bound `json:"rx,omitzero"` // bytes/s, one-second peak; zero where it was never measured
	Sent     Bound `json:"tx,omitzero"`

	// Unseen is the estimated probability that the next run makes a system
	// call that no earlier run made; 1 when nothing is known.
	Unseen float64 `json:"unseen"`
	// Seen maps each system call seen in earlier runs to the number of those runs.
	Seen         map[string]int `json:"seen,omitempty"`
	Hot          []string       `json:"hot,omitempty"`     // of Seen, those called so often that watching them would cost
	Watched      int            `json:"watched,omitempty"` // runs whose calls were watched, to which Seen and Destinations go back
	Destinations []string       `json:"destinations,omitempty"`
	More         bool           `json:"more,omitempty"` // than Destinations may have been reached
	RootfsWrites Tristate       `json:"rootfs_writes,omitempty"`
	Sealed       bool           `json:"sealed,omitempty"` // Unseen is under the configured bound
	Phases       *Phases        `json:"phases,omitempty"` // nil: no run is known to have served
	Ways         []LikelyWay    `json:"ways,omitempty"`   // tunnels that it is likely to ask for, the likeliest first
}

// Phases is what earlier runs made of their calls by phase, among those of which every use was counted.
type Phases struct {
	Runs    int      `json:"runs"`              // that served for long enough to tell
	Unseen  float64  `json:"unseen"`            // probability that the next one makes a call while serving that none of them did
	Known   bool     `json:"known,omitempty"`   // both are within the configured bounds
	Serving []string `json:"serving,omitempty"` // calls that were made while serving
	Start   []string `json:"start,omitempty"`   // calls that were made, but never while serving
	Stops   int      `json:"stops,omitempty"`   // runs, of those that served, that were told to end
	Stop    []string `json:"stop,omitempty"`    // calls that they made after that
}

// Bound is an upper bound for a run's peak and the coverage it was built for.
// A zero Value means that nothing can be said.
type Bound struct {
	Value    float64 `json:"value"`
	Coverage float64 `json:"coverage,omitempty"` // 0.99: one run in a hundred may exceed Value
	Basis    string  `json:"basis,omitempty"`    // from what: "5 runs image+command, pooled scores of 812 runs"
	// Origins are what the run's peak will be compared with when it is known, so that
	// the model learns from what it said at the start.
	Origins []Origin `json:"origins,omitempty"`
}

// Origin is a place from which peaks are measured: a run's score is how far the
// logarithm of its peak is above Center, in units of Scale. Scores of one Pool are comparable.
type Origin struct {
	Pool   uint8   `json:"pool"` // see predictor/estimate
	Center float64 `json:"center"`
	Scale  float64 `json:"scale"`
}

// MaxOrigins bounds the origins of one bound.
const MaxOrigins = 4

// Guess is the part of a bound that a model learns from once the run has ended.
type Guess struct {
	Value   float64  `json:"value"`
	Origins []Origin `json:"origins,omitempty"`
}

// Predicted is what was said of a run's peaks when it began.
type Predicted struct {
	Memory   Guess `json:"memory,omitzero"`
	CPU      Guess `json:"cpu,omitzero"`
	PIDs     Guess `json:"pids,omitzero"`
	Received Guess `json:"rx,omitzero"`
	Sent     Guess `json:"tx,omitzero"`
}

// Predicted is what an observation of the run that p is about carries back.
func (p *Prediction) Predicted() *Predicted {
	guess := func(b Bound) Guess { return Guess{b.Value, b.Origins} }
	return &Predicted{guess(p.Memory), guess(p.CPU), guess(p.PIDs), guess(p.Received), guess(p.Sent)}
}

// LikelyWay is what the next run's agent is likely to ask a tunnel for: Used of the last Runs ended runs whose agents asked did.
type LikelyWay struct {
	Way  string `json:"way"`
	Used int    `json:"used"`
	Runs int    `json:"runs"`
}
