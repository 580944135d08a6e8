package evidence

import "time"

// Load is how busy the node is. Shares are of the node's whole, 0 to 1.
type Load struct {
	Time       time.Time `json:"time"`
	Cores      int       `json:"cores"`
	CPU        float64   `json:"cpu"`         // share in use, a minute's mean
	Memory     float64   `json:"memory"`      // share that cannot be had
	MemoryFree int64     `json:"memory_free"` // bytes that can
	Receive    float64   `json:"rx"`          // bytes/s
	Transmit   float64   `json:"tx"`          // bytes/s
	// Pressure stall information, some avg10, as shares of time; -1: the kernel does not tell.
	PressureCPU    float64 `json:"psi_cpu"`
	PressureMemory float64 `json:"psi_memory"`
	PressureIO     float64 `json:"psi_io"`
	// Tight names the resources that are short, and why; empty: none.
	Tight map[string]string `json:"tight,omitempty"`
}

// Contact is a connection, made or refused, to what a threat feed lists.
type Contact struct {
	Destination string    `json:"destination"` // as observed: proto/address:port, a domain, a URL or a hash
	Indicator   string    `json:"indicator"`   // what matched: a prefix, a domain, …
	Feed        string    `json:"feed"`
	File        string    `json:"file,omitempty"` // of the feed
	Line        int       `json:"line,omitempty"` // in it; of STIX the number of the object
	Confidence  float64   `json:"confidence"`     // 0 to 1, as of now: it decays with the indicator's age
	Listed      time.Time `json:"listed,omitzero"`
	Refused     bool      `json:"refused,omitempty"`
	Seen        time.Time `json:"seen,omitzero"` // when this run was last caught at it; zero: not by this run
}

// Technique is an attack pattern that observations matched.
type Technique struct {
	ID         string  `json:"id"` // of MITRE ATT&CK: T1611
	Name       string  `json:"name"`
	Confidence float64 `json:"confidence"` // 0 to 1
	Severity   float64 `json:"severity"`   // 0 to 1
	Why        string  `json:"why"`        // what matched

	Seen time.Time `json:"seen,omitzero"` // when this run was last caught at it; zero: not by this run
}

// Standing is what is known of a user or a group.
type Standing struct {
	User       string  `json:"user,omitempty"`
	Group      string  `json:"group,omitempty"`
	Runs       int     `json:"runs"`
	Denied     int     `json:"denied"`    // runs with a refused call
	Anomalies  int     `json:"anomalies"` // found in all runs
	Contacts   int     `json:"contacts"`  // with listed addresses, in all runs
	OOMKilled  int     `json:"oom_killed"`
	Failed     int     `json:"failed"`      // runs that ended with another status than 0
	OverAsking float64 `json:"over_asking"` // median of asked memory / peak; 0: unknown
	Trust      float64 `json:"trust"`       // 0 to 1; 0.5 is a stranger
	Why        string  `json:"why,omitempty"`
}

// The kinds of anomaly.
const (
	AnomalySyscalls    = "syscalls"    // sequence or mix of system calls
	AnomalyUsage       = "usage"       // CPU, memory, processes over time
	AnomalyConnections = "connections" // destinations
	AnomalyPrograms    = "programs"    // executables
)

// Anomaly is a departure of a running container from what it, or its like, did before.
type Anomaly struct {
	Kind      string    `json:"kind"`
	Time      time.Time `json:"time"`
	Score     float64   `json:"score"`     // in units of the detector; compare with Threshold alone
	Threshold float64   `json:"threshold"` // set so that false alarms stay under PerHour
	PerHour   float64   `json:"per_hour"`  // false alarms per container-hour that the threshold allows
	Why       string    `json:"why"`
}

// Forecast is where a running container's use of a resource is going.
type Forecast struct {
	Resource string        `json:"resource"` // memory (bytes), cpu (cores), pids, rx or tx (bytes/s)
	Now      float64       `json:"now"`
	Slope    float64       `json:"slope"` // units per second, robust
	Season   time.Duration `json:"season,omitempty"`
	Window   time.Duration `json:"window"` // what Bound is for
	Bound    float64       `json:"bound"`  // the window's peak stays under it with Coverage
	Coverage float64       `json:"coverage"`
	Limit    float64       `json:"limit,omitempty"` // 0: none
	// TimeToLimit is the median time until Limit is reached; 0: not within the horizon.
	TimeToLimit time.Duration `json:"time_to_limit,omitempty"`
	// Probability that Limit is reached within Horizon.
	Probability float64       `json:"probability,omitempty"`
	Horizon     time.Duration `json:"horizon,omitempty"`
	Basis       string        `json:"basis"`
}
