package shim

import (
	"fmt"
	"math"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// The headroom that a predicted memory limit leaves above what is in use (docs/decisions/0057). A quarter alone was
// lost to 1000 MB/s from 64 MiB: the container was at its limit before anybody ran. 100 ms of growth were lost to 500 MB/s once in fifty: the
// airbag's thread did not run for 126 ms (docs/live.md).
const (
	leastHeadroom = 64 << 20
	headroomTime  = 200 * time.Millisecond // of growth at the rate seen
	headroomShare = 4                      // one part in
	limitStep     = 1 << 20                // limits are whole MiB
)

// headroom is the room that belongs above need for growth at rate, in bytes and bytes per second.
func headroom(need int64, rate float64) int64 {
	growth := min(max(0, rate*headroomTime.Seconds()), 1<<60)
	return max(leastHeadroom, need/headroomShare, int64(growth))
}

// short reports whether the room under limit has shrunk to half of what belongs there: time to raise.
func short(limit, need int64, rate float64) bool {
	return limit-need < headroom(need, rate)/2
}

// tripAt is the need, not above limit, at which the room becomes short for slow growth: the solution of short.
func tripAt(limit int64) int64 {
	return max(0, min(limit-leastHeadroom/2, limit/(2*headroomShare+1)*2*headroomShare))
}

// A raise is what a look at a group leads to.
type raise struct {
	to   int64  // the new limit; 0: it stays
	held string // why growth is not given room, or not all that belongs to it
	last bool   // nothing will change that: the kernel does what it does to anybody at a limit
}

// judge decides what becomes of a limit that is short of room. free is what the node has available, asked only when it
// matters.
func judge(t *api.Airbag, limit, need int64, rate float64, free func() (int64, error)) raise {
	if t.Held != "" && limit >= t.Predicted {
		return raise{held: t.Held}
	}
	most, why, last := t.Ceiling, "the ceiling is "+size(t.Ceiling)+" ("+t.CeilingBy+")", true
	if t.Growth > 0 {
		if g := float64(t.Predicted) * t.Growth; g < float64(most) {
			most, last = int64(g), false
			why = fmt.Sprintf("beyond %.3g times the predicted %s growth is anomalous: %s", t.Growth, size(t.Predicted), t.GrowthBy)
		}
	}
	if limit >= most {
		return raise{held: why, last: last}
	}
	r := raise{to: wholeMiB(need + headroom(need, rate))}
	if r.to <= limit {
		return raise{}
	}
	if r.to > most {
		r = raise{to: most, held: why, last: last}
	}
	available, err := free()
	switch room := available - t.Reserve; {
	case err != nil:
		// What the node has is not known: it is not the container's fault.
	case room < limitStep:
		return raise{held: fmt.Sprintf("the node has %s left and keeps %s", size(available), size(t.Reserve))}
	case r.to-limit > room:
		r = raise{to: limit + room/limitStep*limitStep, held: fmt.Sprintf("the node has %s left and keeps %s", size(available), size(t.Reserve))}
	}
	return r
}

func wholeMiB(n int64) int64 {
	if n > math.MaxInt64-limitStep {
		return math.MaxInt64 / limitStep * limitStep
	}
	return (n + limitStep - 1) / limitStep * limitStep
}

func size(n int64) string { return policy.KeyMemory.Format(policy.Value(n)) }
