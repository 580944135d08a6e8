package replay

import (
	"fmt"
	"net/netip"
	"strings"

	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// tally adds runs up.
type tally struct {
	by map[string]*Workload

	undecided, unwatched, held, unread int
	failed                             []string
}

// add holds what a run did against what it would have been allowed.
func (t *tally) add(run Run, d api.Decision) {
	o, e := &run.Seen, d.Effective
	key := o.Keys[0].String()
	w := t.by[key]
	if w == nil {
		w = &Workload{Name: o.Name, Key: key, Denied: map[string]int{}, Uncertain: map[string]int{}}
		t.by[key] = w
	}
	w.Runs++
	w.Mode = policy.KeyMode.Format(e.Mode())
	broken := w.calls(run, d)
	switch over, raised := memory(o, e); {
	case raised:
		w.Raised++
	case over:
		w.Killed++
		broken = true
	}
	if limit, ok := e.Limit(policy.KeyPIDs); ok && o.Usage.PIDsPeak > limit {
		w.Forks++
		broken = true
	}
	if strays(o, e) {
		w.Cut++
		broken = true
	}
	if e.Value(policy.KeyReadonlyRoot, policy.Loose) == policy.Tight && o.RootfsWrites == workload.Yes {
		w.Writes++
		broken = true
	}
	if broken {
		w.Broken++
	}
	w.saved(run, e)
	t.cannotTell(run)
}

// calls counts the calls a run made that would have been refused, and reports whether there are any.
func (w *Workload) calls(run Run, d api.Decision) (refused bool) {
	if d.Seccomp == nil { // nothing is supervised
		return false
	}
	verdicts := d.Effective.Members(policy.KeySyscalls)
	before := run.Decided.Effective.Members(policy.KeySyscalls)
	for name, n := range run.Seen.Syscalls {
		v, decided := verdicts[name]
		switch {
		case !decided:
		case v == policy.SyscallNative && before[name] != policy.SyscallNative:
			w.Calls += int64(n)
		case v >= policy.SyscallWatch, byProfile(d.Effective, name):
		case n <= 1 && recommend.AtStart(name): // that one was runc's, on the way to the program
		case towardsOthers(d.Effective, name):
			w.Uncertain[name]++
		default:
			w.Denied[name]++
			refused = true
		}
	}
	return refused
}

// byProfile reports whether a call is denied by the profile that is taken for the requested one. It passed the one that was
// requested.
func byProfile(e policy.Effective, name string) bool {
	f, _ := e.Lookup(policy.KeySyscalls.Member(name))
	return f.Author == policy.Guardrail && f.Source == "requested seccomp profile"
}

// towardsOthers reports whether a call is denied by a default that lets it pass among the caller's own processes.
func towardsOthers(e policy.Effective, name string) bool {
	f, _ := e.Lookup(policy.KeySyscalls.Member(name))
	return f.Author == policy.Default && seccomp.AmongKin(name)
}

// memory holds a run's peak against its hard limit: one that was predicted is raised before it kills.
func memory(o *workload.Observation, e policy.Effective) (over, raised bool) {
	f, ok := e.Lookup(policy.KeyMemory)
	if !ok || f.Value == policy.Unlimited || o.Usage.MemoryPeak <= int64(f.Value) {
		return false, false
	}
	return true, f.Author == policy.Prediction
}

// strays tells whether a run reached others without having a network, or others than a closed egress allows. By their addresses those that
// an interceptor knew by name are not told apart from others: where there are names they alone count.
func strays(o *workload.Observation, e policy.Effective) bool {
	if e.Value(policy.KeyNetwork, policy.Loose) == policy.Tight {
		return len(o.Destinations) > 0
	}
	if e.Value(policy.KeyEgressDefault, policy.Loose) != policy.Tight {
		return false
	}
	names, addresses := 0, 0
	known := e.Members(policy.KeyEgress)
	for d := range o.Destinations {
		_, where, _ := strings.Cut(d, "/")
		at, err := netip.ParseAddrPort(where)
		switch {
		case err == nil && !allows(known, at.Addr().Unmap()):
			addresses++
		case err != nil && !allowsName(known, where):
			names++
		}
	}
	return names > 0 || addresses > 0 && !named(o.Destinations)
}

// allows tells whether members of egress allow an address.
func allows(known map[string]policy.Value, a netip.Addr) bool {
	for name, v := range known {
		if p, ok := policy.ParseEgress(name); ok && v == policy.Loose && p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

// allowsName tells whether members of egress allow a host and port.
func allowsName(known map[string]policy.Value, where string) bool {
	host, port, _ := policy.ParseEgressName(where)
	for name, v := range known {
		pattern, only, ok := policy.ParseEgressName(name)
		below, wild := strings.CutPrefix(pattern, "*")
		if ok && v == policy.Loose && (only == 0 || only == port) && (pattern == host || wild && strings.HasSuffix(host, below)) {
			return true
		}
	}
	return false
}

// named tells whether some destinations are hosts.
func named(destinations map[string]uint64) bool {
	for d := range destinations {
		_, where, _ := strings.Cut(d, "/")
		if _, err := netip.ParseAddrPort(where); err != nil {
			return true
		}
	}
	return false
}

// saved compares the memory that was promised to a run with what would be.
func (w *Workload) saved(run Run, after policy.Effective) {
	was, ok := promised(run.Decided.Effective)
	is, okNow := promised(after)
	hours := run.Seen.Ended.Sub(run.Seen.Started).Hours()
	if !ok || !okNow || !(hours > 0) {
		return
	}
	w.Limited++
	w.Saved += float64(was-is) / 1e9 * hours
}

// promised is the memory that a policy lets a container have: the lower of its hard and soft limit.
func promised(e policy.Effective) (bytes int64, ok bool) {
	hard, isHard := e.Limit(policy.KeyMemory)
	soft, isSoft := e.Limit(policy.KeyMemorySoft)
	switch {
	case isHard && isSoft:
		return min(hard, soft), true
	case isHard:
		return hard, true
	}
	return soft, isSoft
}

// nearly is the part of a limit from which a peak says what the limit was, not what was needed.
const nearly = 0.98

// cannotTell counts what is not known of a run.
func (t *tally) cannotTell(run Run) {
	if !run.Seen.Watched {
		t.unwatched++
	}
	if limit, ok := run.Decided.Effective.Limit(policy.KeyMemory); ok && (float64(run.Seen.Usage.MemoryPeak) >= nearly*float64(limit) || run.Seen.Usage.OOMKills > 0) {
		t.held++
	}
	if run.Seen.DestinationsLost > 0 {
		t.unread++
	}
}

func (t *tally) unknown() (list []string) {
	say := func(n int, format string) {
		if n > 0 {
			list = append(list, fmt.Sprintf(format, n))
		}
	}
	say(t.undecided, "%d runs are left out: the journal does not have their decisions any more")
	say(len(t.failed), "%d runs cannot be decided under these settings")
	list = append(list, t.failed[:min(len(t.failed), 5)]...)
	say(t.unwatched, "of %d runs nobody watched the system calls from the start: what they would be refused is not known")
	say(t.held, "%d runs came up to their memory limit, or died at it: they may need more than was seen")
	say(t.unread, "%d runs reached more destinations than were kept")
	if len(t.by) > 0 {
		list = append(list,
			"calls at full speed are seen by nobody and never counted; a refused call may have been followed by others that nobody saw",
			"requested system call profiles are not kept: the default of container engines is taken for them",
			"a run that is refused something is taken for broken, though programs often go on; whom a call was made towards is not kept")
	}
	return list
}
