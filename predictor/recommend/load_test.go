package recommend

import (
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

func TestUnderLoad(t *testing.T) {
	busy := &evidence.Load{Tight: map[string]string{"cpu": "99 % in use", "memory": "95 % in use"}}
	little, stranger, all := known(), known(), known()
	little.CPU.Value, all.CPU.Value = 0.01, 8
	stranger.Level = workload.LevelNode.String()
	for name, c := range map[string]struct {
		p    workload.Prediction
		load *evidence.Load
		want policy.Value // of the shares; 0: none
		note string
	}{
		"nobody knows the load": {known(), nil, 0, ""},
		"there is room":         {known(), &evidence.Load{}, 0, ""},
		"short of processors":   {known(), busy, 384, "gets a share by what it needs"}, // 1.5 times 2 of 8
		"needs next to nothing": {little, busy, leastShares, "gets a share"},
		"needs the node":        {all, busy, 0, "needs what it has"},
		"another's history":     {stranger, busy, 0, "too little is known"},
		"short of memory":       {known(), busy, 384, "no memory limit is raised"},
		"memory alone is short": {known(), &evidence.Load{Tight: map[string]string{"memory": "x"}}, 0, "no memory limit is raised"},
	} {
		claims, notes := UnderLoad(c.p, node, c.load)
		var got policy.Value
		for _, claim := range claims {
			if claim.Key != policy.KeyCPUShares || claim.Author != policy.Prediction {
				t.Errorf("%s: %+v", name, claim)
			}
			got = claim.Value
		}
		if got != c.want || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("%s: shares %d, %q", name, got, notes)
		}
	}
}
