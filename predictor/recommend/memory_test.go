package recommend

import (
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

func TestHardMemory(t *testing.T) {
	known := func(change func(*workload.Prediction, *Input)) (workload.Prediction, Input) {
		p := workload.Prediction{Runs: 5, Level: workload.LevelDigestCommand.String(), Memory: workload.Bound{Value: 100 << 20, Coverage: 0.99}}
		in := Input{Airbag: true, RunsForMemory: 5, NodeMemory: 8 << 30, Sized: evidence.Sized{Known: true}}
		change(&p, &in)
		return p, in
	}
	for name, c := range map[string]struct {
		change func(*workload.Prediction, *Input)
		limit  policy.Value
		why    string
	}{
		"small":                {func(*workload.Prediction, *Input) {}, 164 << 20, ""},
		"large":                {func(p *workload.Prediction, _ *Input) { p.Memory.Value = 1 << 30 }, 1280 << 20, ""},
		"nothing was seen":     {func(p *workload.Prediction, _ *Input) { p.Memory.Value = 0 }, 0, "too little is known"},
		"of its like":          {func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelNode.String() }, 0, "too little is known"},
		"switched off":         {func(_ *workload.Prediction, in *Input) { in.Airbag = false }, 0, "no airbag"},
		"few runs":             {func(p *workload.Prediction, _ *Input) { p.Runs = 4 }, 0, "it follows from 4 runs, and 5 make it hard"},
		"often exceeded":       {func(p *workload.Prediction, _ *Input) { p.Memory.Coverage = 0.8 }, 0, "one in 5 runs"},
		"a JVM":                {func(_ *workload.Prediction, in *Input) { in.Sized.Program = "jvm" }, 0, "jvm sizes itself by its limit when it starts"},
		"nobody knows what":    {func(_ *workload.Prediction, in *Input) { in.Sized = evidence.Sized{Why: "no scan"} }, 0, "no scan, and some runtimes"},
		"more than there is":   {func(_ *workload.Prediction, in *Input) { in.NodeMemory = 164 << 20 }, 0, "the node has no more"},
		"a node nobody counts": {func(_ *workload.Prediction, in *Input) { in.NodeMemory = 0 }, 164 << 20, ""},
	} {
		got, why := HardMemory(known(c.change))
		if got != c.limit || !strings.Contains(why, c.why) || (why == "") != (got > 0) {
			t.Errorf("%s: %d MiB, %q", name, got>>20, why)
		}
	}
}
