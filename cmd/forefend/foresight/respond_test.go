package foresight

import (
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// decided is a workload of eight runs, decided with more room than any safeguard leaves.
func decided(claims ...policy.Claim) api.Decision {
	base := []policy.Claim{
		{Key: policy.KeyPIDs, Value: 4096, Origin: policy.Origin{Author: policy.Default}},
		{Key: policy.KeySyscalls.Member("ptrace"), Value: policy.SyscallWatch, Origin: policy.Origin{Author: policy.Default}},
	}
	return api.Decision{
		Facts:      workload.Facts{Run: "r"},
		Prediction: workload.Prediction{Runs: 8, Unseen: 0.05, Level: workload.LevelDigestCommand.String()},
		Risk:       &evidence.Risk{}, Effective: policy.Merge(policy.Input{Claims: append(base, claims...)}),
	}
}

var (
	attacked = risk.Assess(risk.Input{Techniques: []evidence.Technique{{ID: "T1611", Name: "Escape to Host", Confidence: 0.9, Severity: 0.9, Why: "unshare"}}})
	quiet    = risk.Assess(risk.Input{})
)

func responder() *Responder {
	return &Responder{Table: recommend.DefaultTable(), Pace: recommend.Pace{Calm: time.Minute, PerMinute: 3}, Sensitive: []string{"ptrace", "socket"}}
}

// An attack pattern tightens what nothing speaks for, says why with the factors' shares, and leaves when it has been calm.
func TestResponderTightensAndRelaxes(t *testing.T) {
	r, d := responder(), decided()
	d.Prediction.Seen = map[string]int{"socket": 8}
	resp := r.Respond(d, attacked, clock)
	if resp.Set["mode"] != "enforce" && resp.Set["syscalls.deny"] != "ptrace" || strings.Contains(resp.Set["syscalls.deny"], "socket") || len(resp.Unset) > 0 {
		t.Fatalf("%+v", resp)
	}
	if !strings.Contains(resp.Reason, "100 % attack patterns (T1611 Escape to Host: unshare)") || !strings.Contains(resp.Reason, "risk critical") {
		t.Errorf("%q", resp.Reason)
	}
	if resp.Again <= 0 || resp.Again > time.Minute {
		t.Errorf("again after %s", resp.Again)
	}
	for name := range resp.Set {
		if policy.Key(name).Known() {
			d = decided(policy.Claim{Key: policy.Key(name), Value: 0, Origin: policy.Origin{Author: policy.Prediction, Source: orchestrator.SourceRisk}})
		}
	}
	if again := r.Respond(d, attacked, clock.Add(time.Second)); len(again.Set)+len(again.Unset) > 0 {
		t.Errorf("again: %+v", again)
	}
	if early := r.Respond(d, quiet, clock.Add(30*time.Second)); len(early.Set)+len(early.Unset) > 0 || early.Again <= 0 {
		t.Errorf("before it was calm: %+v", early)
	}
	calm := r.Respond(d, quiet, clock.Add(2*time.Minute))
	var set []string
	for name := range resp.Set {
		set = append(set, name)
	}
	slices.Sort(set)
	slices.Sort(calm.Unset)
	if !slices.Equal(calm.Unset, set) || len(calm.Set) > 0 || !strings.Contains(calm.Reason, "no longer ") || calm.Again != 0 {
		t.Errorf("after calm: %+v, set was %v", calm, set)
	}
}

// What could not be done is not taken for done, and is not tried without a bound.
func TestResponderFailed(t *testing.T) {
	r, d := responder(), decided()
	first := r.Respond(d, attacked, clock)
	r.Failed("r", clock)
	second := r.Respond(d, attacked, clock.Add(time.Second))
	if len(first.Set) == 0 || len(second.Set) != len(first.Set) {
		t.Fatalf("%+v, then %+v", first, second)
	}
	r.Failed("r", clock)
	r.Respond(d, attacked, clock.Add(2*time.Second))
	r.Failed("r", clock)
	if fourth := r.Respond(d, attacked, clock.Add(3*time.Second)); len(fourth.Set) > 0 || fourth.Again <= 0 {
		t.Errorf("a fourth within a minute: %+v", fourth)
	}
	r.Failed("unknown", clock)
	r.Forget("r")
	if len(r.runs) > 0 {
		t.Error("not forgotten")
	}
}

// A daemon that starts anew takes back what the one before it has set.
func TestResponderTakesOver(t *testing.T) {
	d := decided(
		policy.Claim{Key: policy.KeyPIDs, Value: 1024, Origin: policy.Origin{Author: policy.Prediction, Source: orchestrator.SourceRisk}},
		policy.Claim{Key: policy.KeySyscalls.Member("ptrace"), Value: policy.SyscallDeny, Origin: policy.Origin{Author: policy.Prediction, Source: orchestrator.SourceRisk}},
		policy.Claim{Key: policy.KeyCPUShares, Value: 512, Origin: policy.Origin{Author: policy.Prediction, Source: "node load"}},
	)
	r := responder()
	if resp := r.Respond(d, quiet, clock); len(resp.Set)+len(resp.Unset) > 0 || resp.Again <= 0 {
		t.Errorf("at once: %+v", resp)
	}
	resp := r.Respond(d, quiet, clock.Add(time.Hour))
	slices.Sort(resp.Unset)
	if !slices.Equal(resp.Unset, []string{"pids", "syscalls.deny"}) {
		t.Errorf("%+v", resp)
	}
}

// Nothing that is as tight already is set, and nothing is done without something found.
func TestResponderLeavesAlone(t *testing.T) {
	asks := risk.Of([]evidence.Factor{{Name: evidence.FactorPrivileges, Severity: 1, Likelihood: 0.9}})
	if resp := responder().Respond(decided(), asks, clock); len(resp.Set) > 0 {
		t.Errorf("for what it asks for: %+v", resp)
	}
	miner := risk.Assess(risk.Input{Sinks: []evidence.Sink{{Kind: "miner", Severity: 0.9}}})
	tight := decided(policy.Claim{Key: policy.KeyPIDs, Value: 80, Origin: policy.Origin{Author: policy.Prediction, Source: "history"}})
	if resp := responder().Respond(tight, miner, clock); resp.Set["pids"] != "" || resp.Set["cpu.shares"] == "" {
		t.Errorf("%+v", resp.Set)
	}
}

// Where the site wants it, a container is frozen, and thawed when the risk has fallen; killing goes before freezing, and a
// container that is only observed is left alone.
func TestResponderStops(t *testing.T) {
	r := responder()
	r.Table.Levels = map[evidence.Level][]evidence.Safeguard{evidence.Critical: {evidence.SafeguardFreeze}}
	if resp := r.Respond(decided(), attacked, clock); resp.Action != api.ActionFreeze || len(resp.Set) > 0 {
		t.Errorf("%+v", resp)
	}
	if resp := r.Respond(decided(), attacked, clock.Add(time.Second)); resp.Action != "" {
		t.Errorf("again: %+v", resp)
	}
	if resp := r.Respond(decided(), quiet, clock.Add(time.Hour)); resp.Action != api.ActionThaw {
		t.Errorf("after calm: %+v", resp)
	}
	r = responder()
	r.Table.Levels = map[evidence.Level][]evidence.Safeguard{evidence.Critical: {evidence.SafeguardFreeze, evidence.SafeguardKill}}
	observed := decided(policy.Claim{Key: policy.KeyMode, Value: policy.ModeObserve, Origin: policy.Origin{Author: policy.Request}})
	if resp := r.Respond(observed, attacked, clock); resp.Action != "" {
		t.Errorf("observed: %+v", resp)
	}
	r.Forget("r")
	if resp := r.Respond(decided(), attacked, clock); resp.Action != api.ActionKill {
		t.Errorf("%+v", resp)
	}
}
