package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Bounds of what is accepted of one observation.
const (
	maxName     = 64  // bytes of a system call's name
	maxText     = 512 // bytes of any other string
	maxKeys     = 8
	maxKeyValue = 64 // bytes of a key

	maxDestination = 128 // bytes of a destination: protocol, address and port
	maxProgram     = 256 // bytes of a program's path
)

// hotRate is how many calls a second make a call hot: at 5–8 µs each (DESIGN
// section 7), watching a hundred a second costs less than 0.1 % of a core.
const hotRate = 100

// run is an observation prepared for the model.
type run struct {
	obs  *workload.Observation
	end  time.Time
	seen seen
	// serving and stopping are what it did in these phases; nil where it did not come to them, or not for long enough to tell.
	serving, stopping *seen
	size              int // while it goes on: what it takes, about
}

// ErrInvalid is in the chain of the error for an observation that Record refuses.
var ErrInvalid = errors.New("invalid observation")

func validate(o *workload.Observation) error {
	switch {
	case o.Version != workload.ObservationVersion:
		return fmt.Errorf("%w: version %d is unknown here", ErrInvalid, o.Version)
	case o.Run == "" || len(o.Run) > maxText:
		return fmt.Errorf("%w: run %.80q", ErrInvalid, o.Run)
	case len(o.Keys) == 0 || len(o.Keys) > maxKeys:
		return fmt.Errorf("%w: %d keys", ErrInvalid, len(o.Keys))
	case len(o.Syscalls) > workload.MaxSyscalls || len(o.Denied) > workload.MaxSyscalls || len(o.Native) > 2*workload.MaxSyscalls:
		return fmt.Errorf("%w: %d system calls", ErrInvalid, len(o.Syscalls)+len(o.Denied)+len(o.Native))
	case len(o.Destinations) > workload.MaxDestinations || len(o.Refused) > workload.MaxDestinations || len(o.Usage.Series) > workload.MaxSeries:
		return fmt.Errorf("%w: %d destinations, %d points", ErrInvalid, len(o.Destinations), len(o.Usage.Series))
	case len(o.Serving) > workload.MaxSyscalls || len(o.Stopping) > workload.MaxSyscalls:
		return fmt.Errorf("%w: %d system calls by phase", ErrInvalid, len(o.Serving)+len(o.Stopping))
	case len(o.Faults) > workload.MaxFaults:
		return fmt.Errorf("%w: %d kinds of faults of an agent's channel", ErrInvalid, len(o.Faults))
	case len(o.Ways) > workload.MaxWays || len(o.Ahead) > workload.MaxWays || len(o.Missed) > workload.MaxWays:
		return fmt.Errorf("%w: %d ways out, %d and %d before they were asked for", ErrInvalid, len(o.Ways), len(o.Ahead), len(o.Missed))
	case len(o.Programs) > workload.MaxPrograms:
		return fmt.Errorf("%w: %d programs", ErrInvalid, len(o.Programs))
	}
	for i, k := range o.Keys {
		if k.Level > workload.LevelNode || k.Value == "" || len(k.Value) > maxKeyValue || i > 0 && k.Level <= o.Keys[i-1].Level {
			return fmt.Errorf("%w: key %d %.80q", ErrInvalid, i, k.String())
		}
	}
	for _, s := range []string{o.Name, o.User, o.Group, o.Image, string(o.RootfsWrites), o.Repository, o.Program, o.Prior.Runtime, o.Prior.Basis} {
		if len(s) > maxText {
			return fmt.Errorf("%w: a name of %d bytes", ErrInvalid, len(s))
		}
	}
	for _, name := range o.Native {
		if len(name) > maxName {
			return fmt.Errorf("%w: a system call's name of %d bytes", ErrInvalid, len(name))
		}
	}
	return errors.Join(shortKeys(o.Syscalls, maxName), shortKeys(o.Denied, maxName), shortKeys(o.Destinations, maxDestination),
		shortKeys(o.Refused, maxDestination), shortKeys(o.Programs, maxProgram), shortKeys(o.Serving, maxName), shortKeys(o.Stopping, maxName),
		shortKeys(o.Faults, maxName), shortKeys(o.Ways, workload.MaxWay))
}

// shortKeys refuses counts of names that nothing honest has.
func shortKeys(counts map[string]uint64, most int) error {
	for name := range counts {
		if len(name) > most {
			return fmt.Errorf("%w: a name of %d bytes, the most is %d", ErrInvalid, len(name), most)
		}
	}
	return nil
}

// sizeOf is about how many bytes a run that goes on takes.
func (r *run) sizeOf() int {
	const entry = 64 // a name's header and allocation, its count, its place in a map
	n := 1 << 10
	for _, counts := range []map[string]uint64{r.obs.Syscalls, r.obs.Denied, r.obs.Destinations, r.obs.Refused, r.obs.Serving, r.obs.Stopping} {
		for name := range counts {
			n += entry + len(name)
		}
	}
	return n + entry*(len(r.obs.Native)+len(r.seen.calls))
}

// endOf is when a run ended as far as anyone knows.
func endOf(o *workload.Observation, now time.Time) time.Time {
	if !o.Ended.IsZero() {
		return o.Ended
	}
	return now
}

// lasted is how long the run went on as far as anyone knows, in seconds; 0: not known.
func (r *run) lasted() float32 {
	if r.obs.Started.IsZero() {
		return 0
	}
	return float32(max(r.end.Sub(r.obs.Started).Seconds(), 0))
}

// newRun prepares an observation. Names that are new get a number.
func (n *names) newRun(o *workload.Observation, end time.Time) *run {
	r := &run{obs: o, end: end}
	lasted := max(end.Sub(o.Started).Seconds(), 1)
	r.seen.calls = n.calls(o.Syscalls, hotRate*lasted)
	for _, name := range o.Native {
		if id, ok := n.ids[name]; ok { // only calls that were seen matter
			r.seen.native = append(r.seen.native, id)
		}
	}
	return r
}

// byPhase notes what the run did while serving, if it served for so many seconds, and while stopping.
func (r *run) byPhase(n *names, served float64) {
	if r.obs.Served <= 0 || r.obs.Served < served {
		return
	}
	r.serving = &seen{calls: n.calls(r.obs.Serving, 0)}
	if r.obs.Stopped {
		r.stopping = &seen{calls: n.calls(r.obs.Stopping, 0)}
	}
}

// calls numbers and sorts the names of counts. Those that were called more often than hot are marked so; 0: none is.
func (n *names) calls(counts map[string]uint64, hot float64) []call {
	list := make([]call, 0, len(counts))
	for name, count := range counts {
		if id, ok := n.id(name); ok {
			var flags call
			if hot > 0 && float64(count) > hot {
				flags = flagHot
			}
			list = append(list, newCall(id, flags, 0))
		}
	}
	slices.SortFunc(list, byID)
	return list
}

// busiest returns at most n keys of m, the least used first.
func busiest(m map[string]uint64, n int) []string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[a], m[b]), cmp.Compare(a, b))
	})
	keys = slices.DeleteFunc(keys, func(k string) bool { return len(k) > maxText })
	return keys[max(0, len(keys)-n):]
}
