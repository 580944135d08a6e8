package recommend

import (
	"fmt"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// A predicted hard memory limit leaves the headroom above the bound that the airbag keeps (docs/decisions/0057): a run like those
// before it stays where nothing has to be raised.
const (
	leastHeadroom    = 64 << 20
	headroomShare    = 4
	coverageForLimit = 0.9
)

// HardMemory is the hard memory limit that a prediction makes, 0 and why where it makes none.
func HardMemory(p workload.Prediction, in Input) (limit policy.Value, why string) {
	b := p.Memory
	switch {
	case !itself(p.Level) || !(b.Value > 0):
		return 0, "too little is known"
	case !in.Airbag:
		return 0, "no airbag raises it before it is reached"
	case p.Runs < in.RunsForMemory:
		return 0, fmt.Sprintf("it follows from %s, and %d make it hard", runs(p.Runs), in.RunsForMemory)
	case b.Coverage < coverageForLimit:
		return 0, fmt.Sprintf("one in %.0f runs is to exceed the bound", 1/(1-b.Coverage))
	case in.Sized.Program != "":
		return 0, in.Sized.Program + " sizes itself by its limit when it starts"
	case !in.Sized.Known:
		return 0, in.Sized.Why + ", and some runtimes size themselves by their limit"
	}
	v, ok := whole(b.Value+max(leastHeadroom, b.Value/headroomShare), 1<<20)
	if !ok || in.NodeMemory > 0 && int64(v) >= in.NodeMemory {
		return 0, "the node has no more than that"
	}
	return v, ""
}
