package export

import (
	"fmt"
	"math"
	"strings"

	"forefend.dev/forefend/runtime/workload"
)

type resourcesYAML struct {
	Resources struct {
		Requests map[string]string `yaml:"requests"`
		Limits   map[string]string `yaml:"limits,omitempty"`
	} `yaml:"resources"`
}

// Headroom of a hard memory limit above the bound, as docs/decisions/0057 has it.
const (
	leastHeadroom = 64 << 20
	headroomShare = 4
)

// runsForLimit is from how many runs a limit is written that kills.
const runsForLimit = 5

// resources requests what a run is expected to need at most, and limits memory and processes above that. Processors are not limited: who
// waits for one is only slow.
func resources(l Learned) ([]byte, error) {
	p := &l.Prediction
	if p.Memory.Value <= 0 && p.CPU.Value <= 0 {
		return nil, fmt.Errorf("%s: no run's use was measured: %w", l.Image, ErrNothing)
	}
	var out resourcesYAML
	out.Resources.Requests = make(map[string]string)
	notes := l.basis()
	var flags []string
	bound := func(what string, b workload.Bound) {
		notes = append(notes, fmt.Sprintf("%s: one run in %.0f may exceed it (%s).", what, 1/(1-min(b.Coverage, 0.9999)), plain(b.Basis)))
	}
	if v := p.CPU.Value; v > 0 {
		milli := int64(math.Ceil(v * 1000))
		out.Resources.Requests["cpu"] = fmt.Sprintf("%dm", milli)
		bound(fmt.Sprintf("cpu %.2f, the highest of one second", v), p.CPU)
	}
	if v := p.Memory.Value; v > 0 {
		out.Resources.Requests["memory"] = mebi(v)
		bound("memory "+mebi(v)+", the peak", p.Memory)
		limit := mebi(v + max(leastHeadroom, v/headroomShare))
		if p.Runs >= runsForLimit {
			out.Resources.Limits = map[string]string{"memory": limit}
			flags = append(flags, "--memory "+strings.ToLower(strings.TrimSuffix(limit, "i")))
			notes = append(notes, "The memory limit leaves headroom above it; nothing raises it here as Forefend would.")
		} else {
			notes = append(notes, fmt.Sprintf("No memory limit: %d runs make one, which would have been %s.", runsForLimit, limit))
		}
	}
	if v := p.PIDs.Value; v > 0 && p.Runs >= runsForLimit {
		most := int64(math.Ceil(2*v)) + 16 // what is refused is a fork
		flags = append(flags, fmt.Sprintf("--pids-limit %d", most))
		bound(fmt.Sprintf("processes and threads %.0f", v), p.PIDs)
	}
	if len(flags) > 0 {
		notes = append(notes, "nerdctl run "+strings.Join(flags, " ")+" "+plain(l.Image))
	}
	return l.document(notes, out)
}

// mebi rounds up to whole mebibytes.
func mebi(bytes float64) string { return fmt.Sprintf("%dMi", int64(math.Ceil(bytes/(1<<20)))) }
