// Package recommend turns a prediction into policy claims: what a run may use
// and do if it is to be like the runs before it.
//
// Recommendations are proposals of the weakest author but the defaults. What a
// request says wins over them, guardrails bound them, and none of them kills a
// healthy container: a hard memory limit is recommended only where something raises it
// before it is reached (HardMemory), and nothing is denied here. What happens to calls no run has made is the defaults' business.
//
// The package is pure and keeps no state: any goroutine may call it.
package recommend

import (
	"fmt"
	"math"
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Input is what a recommendation depends on besides the prediction. A nil
// function says no to every name.
type Input struct {
	Cores      float64 // of the node
	NodeMemory int64   // bytes of the node; 0: not known
	Enforce    bool    // the container's mode is enforce
	Unified    bool    // the node uses cgroup v2

	Airbag        bool // predicted memory limits are raised before they are reached
	RunsForMemory int  // of the workload, before its predicted memory limit is a hard one
	Sized         evidence.Sized

	NameServers []string // see Known
	// UnseenEgress is up to which probability that the next run needs a destination that no earlier one reached mode enforce denies those; 0: never.
	UnseenEgress float64

	// AllowReadonlyRoot: the site wants read-only roots where history shows no writes.
	AllowReadonlyRoot bool

	Hot       func(syscall string) bool // harmless, and too frequent to watch
	Sensitive func(syscall string) bool // stays switchable: watched, even when predicted
	Dangerous func(syscall string) bool // needs something that speaks for it
}

// The number of runs from which a recommendation is made. Limits that make a
// program fail want more of them.
const (
	runsForPIDs         = 3
	runsForCPU          = 5
	runsForReadonlyRoot = 5
	runsForNative       = 2 // in which a call was seen
)

// Claims returns the claims a prediction makes. Without history of the workload
// itself, or of the same code, there are none.
func Claims(p workload.Prediction, in Input) []policy.Claim {
	if p.Runs < 1 || !aboutCode(p.Level) {
		return nil
	}
	r := recommender{p: p, in: in, source: fmt.Sprintf("history %s, %s", p.Level, runs(p.Runs))}
	if itself(p.Level) { // what the same binary used with other arguments bounds nothing
		r.memory()
		r.pids()
		r.cpus()
	}
	r.syscalls()
	r.sealed()
	r.readonlyRoot()
	return r.claims
}

// aboutCode says whether runs at this level are runs of the same code. What
// others of a repository, user or node used is worth showing, not enforcing.
func aboutCode(level string) bool {
	return itself(level) || level == workload.LevelExecutable.String()
}

// itself says whether runs at this level are runs of the workload itself.
func itself(level string) bool {
	return level == workload.LevelDigestCommand.String() || level == workload.LevelRepositoryCommand.String()
}

type recommender struct {
	p      workload.Prediction
	in     Input
	source string
	claims []policy.Claim
}

func (r *recommender) claim(k policy.Key, v policy.Value, reason string, args ...any) {
	r.claims = append(r.claims, policy.Claim{Key: k, Value: v,
		Origin: policy.Origin{Author: policy.Prediction, Source: r.source, Reason: fmt.Sprintf(reason, args...)}})
}

// memory is a hard limit where HardMemory says so, and on cgroup v1 a soft one at the bound besides: it tells whom to reclaim from first.
// cgroup v2 has no such soft limit: memory.high holds a program that outgrows its history almost still, see decision 0020.
func (r *recommender) memory() {
	const page = 1 << 20 // whole MiB are easier to read, and no kernel counts finer in earnest
	b := r.p.Memory
	if limit, why := HardMemory(r.p, r.in); why == "" {
		r.claim(policy.KeyMemory, limit, "headroom above the %s that the next run stays under %s; raised before it is reached",
			policy.KeyMemory.Format(policy.Value(math.Ceil(b.Value))), because(b))
	}
	if r.in.Unified || !(b.Value > 0) || r.in.NodeMemory > 0 && b.Value >= float64(r.in.NodeMemory) {
		return
	}
	v, ok := whole(b.Value, page)
	if !ok {
		return
	}
	r.claim(policy.KeyMemorySoft, v, "the next run stays under %s %s", policy.KeyMemorySoft.Format(v), because(b))
}

// pids leaves room for twice the bound: a fork that fails is worse than a late alarm.
func (r *recommender) pids() {
	b := r.p.PIDs
	if !(b.Value > 0) || r.p.Runs < runsForPIDs {
		return
	}
	v, ok := whole(max(2*b.Value, b.Value+64), 16)
	if !ok {
		return
	}
	r.claim(policy.KeyPIDs, v, "twice what the next run stays under, %.0f processes and threads %s", math.Ceil(b.Value), because(b))
}

// cpus is claimed only where surprises are to be denied: throttling a server
// that could have used an idle processor helps nobody.
func (r *recommender) cpus() {
	b := r.p.CPU
	limit := max(1.25*b.Value, b.Value+0.25)
	if !(b.Value > 0) || !r.in.Enforce || r.p.Runs < runsForCPU || !(limit < r.in.Cores) {
		return
	}
	r.claim(policy.KeyCPUs, policy.Value(math.Ceil(limit*1000)), "a quarter more than the %.2f CPUs the next run stays under %s", b.Value, because(b))
}

// syscalls speaks for calls that were seen. Reasons are the same for all calls
// of a kind, so that explain shows them in one line.
func (r *recommender) syscalls() {
	names := make([]string, 0, len(r.p.Seen))
	for name := range r.p.Seen {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		seen := r.p.Seen[name]
		key := policy.KeySyscalls.Member(name)
		switch {
		case seen < 1:
		case is(r.in.Dangerous, name):
			if itself(r.p.Level) {
				r.claim(key, policy.SyscallWatch, "dangerous, and seen in earlier runs: passes under watch")
			}
		case is(r.in.Sensitive, name):
			r.claim(key, policy.SyscallWatch, "sensitive, and seen in earlier runs: stays switchable")
		case r.p.Phases != nil && slices.Contains(r.p.Phases.Start, name) && !slices.Contains(r.p.Hot, name):
			r.claim(key, policy.SyscallWatch, "harmless, and never seen while earlier runs served: stays switchable")
		case seen >= runsForNative:
			r.claim(key, policy.SyscallNative, "harmless, and seen in at least %d earlier runs", runsForNative)
		case is(r.in.Hot, name) || slices.Contains(r.p.Hot, name):
			r.claim(key, policy.SyscallNative, "harmless, and seen so often in an earlier run that watching it would cost")
		}
	}
}

func (r *recommender) sealed() {
	if r.p.Sealed {
		r.claim(policy.KeySealed, policy.Tight, "with probability %.2f at most, the next run makes a system call that no earlier one made", r.p.Unseen)
	}
}

func (r *recommender) readonlyRoot() {
	if r.in.AllowReadonlyRoot && r.p.RootfsWrites == workload.No && r.p.Runs >= runsForReadonlyRoot && itself(r.p.Level) {
		r.claim(policy.KeyReadonlyRoot, policy.Tight, "none of %s wrote to its root filesystem", runs(r.p.Runs))
	}
}

// whole rounds v up to a multiple of unit; ok is false when that is no sensible limit.
func whole(v float64, unit int64) (policy.Value, bool) {
	n := math.Ceil(v / float64(unit))
	if !(n*float64(unit) < 1<<60) {
		return 0, false
	}
	return policy.Value(int64(n) * unit), true
}

func because(b workload.Bound) string {
	return fmt.Sprintf("in %.3g %% of cases (%s)", 100*b.Coverage, b.Basis)
}

func is(f func(string) bool, name string) bool { return f != nil && f(name) }

func runs(n int) string {
	if n == 1 {
		return "1 run"
	}
	return fmt.Sprintf("%d runs", n)
}
