package shim

import (
	"fmt"
	"math"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// The headroom that a predicted memory limit leaves above what is in use (docs/decisions/0057). A quarter alone was
// lost to 1000 MB/s from 64 MiB: the container was at its limit before anybody ran. 100 ms of growth were lost to 500 MB/s once in fifty: the
// airbag's thread did not run for 126 ms (docs/live.md). Its functions that a sentry calls keep to the rules of one.
const (
	leastHeadroom = 64 << 20
	headroomTime  = 0.2     // seconds of growth at the rate seen
	headroomShare = 4       // one part in
	limitStep     = 1 << 20 // limits are whole MiB
)

// headroom is the room that belongs above need for growth at rate, in bytes and bytes per second.
//
//go:nosplit
//go:norace
func headroom(need int64, rate float64) int64 {
	growth := min(max(0, rate*headroomTime), 1<<60)
	return max(leastHeadroom, need/headroomShare, int64(growth))
}

// short reports whether the room under limit has shrunk to half of what belongs there: time to raise.
//
//go:nosplit
//go:norace
func short(limit, need int64, rate float64) bool {
	return limit-need < headroom(need, rate)/2
}

// tripAt is the need, not above limit, at which the room becomes short for slow growth: the solution of short.
//
//go:nosplit
//go:norace
func tripAt(limit int64) int64 {
	return max(0, min(limit-leastHeadroom/2, limit/(2*headroomShare+1)*2*headroomShare))
}

// terms are what a decision says of one group's limit, and who else has a word. Sizes are bytes.
type terms struct {
	predicted int64
	ceiling   int64
	bound     int64 // growth beyond it is anomalous; math.MaxInt64: none is
	reserve   int64 // what the node keeps
	soft      int64 // somebody's memory.high; math.MaxInt64: nobody's
	held      bool  // all growth is anomalous
}

func termsOf(t *api.Airbag, soft int64) terms {
	x := terms{predicted: t.Predicted, ceiling: t.Ceiling, bound: math.MaxInt64, reserve: t.Reserve, soft: soft, held: t.Held != ""}
	if g := float64(t.Predicted) * t.Growth; t.Growth > 0 && g < float64(t.Ceiling) {
		x.bound = int64(g)
	}
	return x
}

// throttleAt is where memory.high belongs.
//
//go:nosplit
//go:norace
func throttleAt(t *terms, limit int64, ended bool) int64 {
	if ended {
		return t.soft
	}
	return min(t.soft, max(limitStep, tripAt(limit)))
}

// cause is why growth is not given room, or not all that belongs to it.
type cause uint8

const (
	causeNone    cause = iota
	causeHeld          // all growth is anomalous
	causeBound         // so much growth is anomalous
	causeCeiling       // the limit may not be higher
	causeNode          // the node has not more
	causeKernel        // the kernel refused
)

// A raise is what a look at a group leads to.
type raise struct {
	to   int64 // the new limit; 0: it stays
	held cause
	last bool // nothing will change that: the kernel does what it does to anybody at a limit
}

// judge decides what becomes of a limit that is short of room, before spare.
//
//go:nosplit
//go:norace
func judge(t *terms, limit, need int64, rate float64) raise {
	if t.held && limit >= t.predicted {
		return raise{held: causeHeld}
	}
	r := raise{to: t.ceiling, held: causeCeiling, last: true}
	if t.bound < t.ceiling {
		r = raise{to: t.bound, held: causeBound}
	}
	if limit >= r.to {
		r.to = 0
		return r
	}
	switch to := wholeMiB(need + headroom(need, rate)); {
	case to <= limit:
		return raise{}
	case to < r.to:
		return raise{to: to}
	}
	return r // also when it is just enough: the next look may come too late to tell that this was the end
}

// spare is a raise, from limit, that leaves the node its reserve. available is the memory of the node.
//
//go:nosplit
//go:norace
func spare(t *terms, limit int64, r raise, available int64) raise {
	switch room := available - t.reserve; {
	case room < limitStep:
		return raise{held: causeNode}
	case r.to-limit > room:
		return raise{to: limit + room/limitStep*limitStep, held: causeNode}
	}
	return r
}

// because says why growth is held; empty: it is not.
func (n *notice) because(t *api.Airbag) string {
	switch n.held {
	case causeHeld:
		return t.Held
	case causeBound:
		return fmt.Sprintf("beyond %.3g times the predicted %s growth is anomalous: %s", t.Growth, size(t.Predicted), t.GrowthBy)
	case causeCeiling:
		return "the ceiling is " + size(t.Ceiling) + " (" + t.CeilingBy + ")"
	case causeNode:
		return fmt.Sprintf("the node has %s left and keeps %s", size(n.available), size(t.Reserve))
	case causeKernel:
		return "the kernel refuses: " + cgroup.MemoryError(n.errno).Error()
	}
	return ""
}

//go:nosplit
//go:norace
func wholeMiB(n int64) int64 {
	if n > math.MaxInt64-limitStep {
		return math.MaxInt64 / limitStep * limitStep
	}
	return (n + limitStep - 1) / limitStep * limitStep
}

func size(n int64) string { return policy.KeyMemory.Format(policy.Value(n)) }
