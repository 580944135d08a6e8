package recommend

import (
	"fmt"
	"math"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// wholeShares are the CPU shares of a container that asks for none; leastShares is what a predictable one keeps on a busy
// node, where processors are divided by shares.
const (
	wholeShares = 1024
	leastShares = 128
)

// UnderLoad returns what a busy node adds to the claims of a prediction, and what a person should know about it. A
// container whose need of processors is well known gets shares for that need and a half more, so that those who wait are
// served; one of which little is known keeps its own. Nobody gets more memory for it.
func UnderLoad(p workload.Prediction, in Input, load *evidence.Load) (claims []policy.Claim, notes []string) {
	if load == nil {
		return nil, nil
	}
	if why, short := load.Tight["memory"]; short {
		notes = append(notes, "the node is short of memory ("+why+"): no memory limit is raised beyond what was asked for")
	}
	why, short := load.Tight["cpu"]
	if !short {
		return nil, notes
	}
	if !itself(p.Level) || p.Runs < runsForCPU || !(p.CPU.Value > 0) || !(in.Cores > 0) {
		return nil, append(notes, "the node is short of processors ("+why+"); too little is known of this workload to give it a smaller share")
	}
	shares := math.Ceil(wholeShares * min(1, 1.5*p.CPU.Value/in.Cores))
	v := policy.Value(max(leastShares, shares))
	if v >= wholeShares {
		return nil, append(notes, "the node is short of processors ("+why+"), and this workload needs what it has")
	}
	return []policy.Claim{{Key: policy.KeyCPUShares, Value: v, Origin: policy.Origin{
		Author: policy.Prediction, Source: "node load", Reason: fmt.Sprintf("%s; the next run needs %.2f CPUs at most %s", why, p.CPU.Value, because(p.CPU)),
	}}}, append(notes, "the node is short of processors ("+why+"): this workload gets a share by what it needs")
}
