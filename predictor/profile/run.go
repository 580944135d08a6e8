package profile

import (
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

// run is the part of a workload.Observation that counts here: reading the rest of a stored one would cost more than
// all else.
type run struct {
	Version   int                `json:"version"`
	Run       string             `json:"run"`
	User      string             `json:"user"`
	Group     string             `json:"group"`
	Keys      []workload.Key     `json:"keys"`
	Ended     time.Time          `json:"ended"`
	Exit      workload.Exit      `json:"exit"`
	Denied    map[string]uint64  `json:"denied"`
	Requested workload.Requested `json:"requested"`
	Usage     struct {
		MemoryPeak int64 `json:"memory_peak"`
		OOMKills   int64 `json:"oom_kills"`
	} `json:"usage"`
	Findings evidence.Findings `json:"findings"`
}

func runOf(o *workload.Observation) *run {
	r := &run{
		Version: o.Version, Run: o.Run, User: o.User, Group: o.Group, Keys: o.Keys, Ended: o.Ended, Exit: o.Exit,
		Denied: o.Denied, Requested: o.Requested, Findings: o.Findings,
	}
	r.Usage.MemoryPeak, r.Usage.OOMKills = o.Usage.MemoryPeak, o.Usage.OOMKills
	return r
}

// stopped are statuses of runs that somebody ended: by SIGINT, SIGKILL or SIGTERM.
var stopped = map[uint32]bool{128 + 2: true, 128 + 9: true, 128 + 15: true}

func (r *run) failed() bool { return r.Exit.Status != 0 && !r.Exit.Lost && !stopped[r.Exit.Status] }

// bad is how bad the run was, 0 to 1.
func (r *run) bad() float64 {
	bad := badAnomaly * float64(len(r.Findings.Anomalies))
	for _, c := range r.Findings.Contacts {
		bad += badContact * share(c.Confidence)
	}
	for _, t := range r.Findings.Techniques {
		bad += share(t.Confidence) * share(t.Severity)
	}
	if len(r.Denied) > 0 {
		bad += badDenied
	}
	if r.Usage.OOMKills > 0 {
		bad += badOOM
	}
	if r.failed() {
		bad += badFailure
	}
	return min(bad, 1)
}

// share bounds what came from a file.
func share(v float64) float64 {
	if !(v > 0) {
		return 0
	}
	return min(v, 1)
}
