package admit

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

const mib = 1 << 20

// foreseen is a container whose memory was predicted, on a node of 4 GiB and by a shim that raises limits.
func foreseen(t testing.TB, limit policy.Value) Input {
	in := withDefaultProfile(asked(t, nil))
	in.Request.Airbag, in.NodeMemory, in.Reserve = true, 4<<30, 256*mib
	in.Predicted = []policy.Claim{predicts(policy.KeyMemory, limit)}
	return in
}

func TestAirbagCeiling(t *testing.T) {
	swap := policy.Claim{Key: policy.KeyMemorySwap, Value: 512 * mib, Origin: policy.Origin{Author: policy.Default, Source: "config.toml [defaults]"}}
	for name, c := range map[string]struct {
		change  func(*Input)
		ceiling int64
		by      string
	}{
		"the node":              {func(*Input) {}, 3840 * mib, "the node has 4 GiB and keeps 256 MiB"},
		"a guardrail":           {func(in *Input) { in.Site = site([]policy.Guard{atMost(policy.KeyMemory, 1024*mib)}, nil) }, 1024 * mib, "config.toml [guardrails]"},
		"a default":             {func(in *Input) { in.Site = site(nil, []policy.Claim{siteDefault(policy.KeyMemory, 2048*mib)}) }, 2048 * mib, "config.toml [defaults]"},
		"a guardrail too high":  {func(in *Input) { in.Site = site([]policy.Guard{atMost(policy.KeyMemory, 64<<30)}, nil) }, 3840 * mib, "the node has"},
		"memory and swap":       {func(in *Input) { in.Site = site(nil, []policy.Claim{swap}) }, 512 * mib, "memory and swap together, config.toml [defaults]"},
		"a node nobody counted": {func(in *Input) { in.NodeMemory = 0 }, int64(policy.Unlimited), "nothing"},
		"a node that is full":   {func(in *Input) { in.NodeMemory = 32 * mib }, 64 * mib, "the node has"}, // what was predicted holds all the same
	} {
		in := foreseen(t, 64*mib)
		c.change(&in)
		d := decide(t, in)
		a := d.Airbag
		if a == nil || a.Predicted != 64*mib || a.Reserve != 256*mib || a.Ceiling != c.ceiling || !strings.Contains(a.CeilingBy, c.by) || a.Held != "" || a.Growth != 0 || a.Sized != "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// Only a limit that was predicted, and that the shim can raise, is one that is raised.
func TestAirbagOfOthersLimits(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"a shim without":    func(in *Input) { in.Request.Airbag = false },
		"nothing predicted": func(in *Input) { in.Predicted = nil },
		"requested":         func(in *Input) { in.Request.Spec.Linux.Resources = resources(32*mib, 0) },
		"the operator's": func(in *Input) {
			in.Operator = []policy.Claim{{Key: policy.KeyMemory, Value: 32 * mib, Origin: policy.Origin{Author: policy.Operator}}}
		},
		"guarded":            func(in *Input) { in.Site = site([]policy.Guard{atMost(policy.KeyMemory, 32*mib)}, nil) },
		"predicted as none":  func(in *Input) { in.Predicted[0].Value = policy.Unlimited },
		"predicted as gone":  func(in *Input) { in.Predicted = in.Predicted[:0] },
		"left as was asked":  func(in *Input) { *in = privileged(*in); in.Predicted = nil },
		"of another machine": func(in *Input) { in.Request.Airbag, in.Unified = false, true },
	} {
		in := foreseen(t, 64*mib)
		change(&in)
		if d := decide(t, in); d.Airbag != nil {
			t.Errorf("%s: %+v", name, d.Airbag)
		}
	}
}

func TestAirbagHoldsWhatIsAnomalous(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		held   string
		growth float64
		by     string
		sized  string
	}{
		"a high risk": {func(in *Input) {
			in.Risk = &evidence.Risk{Level: evidence.High, Score: 71, Factors: []evidence.Factor{{Name: "threat contacts", Why: "192.0.2.1"}}}
		}, "the risk is high (71 of 100), most of it threat contacts: 192.0.2.1", 0, "", ""},
		"a critical risk": {func(in *Input) { in.Risk = &evidence.Risk{Level: evidence.Critical, Score: 95} }, "the risk is critical (95 of 100)", 0, "", ""},
		"a medium risk":   {func(in *Input) { in.Risk = &evidence.Risk{Level: evidence.Medium, Score: 50} }, "", 0, "", ""},
		"no trust": {func(in *Input) {
			in.Standing = &evidence.Standing{User: "mallory", Group: "guests", Runs: 9, Trust: 0.1, Why: "attacks"}
		}, `the profile of user "mallory" and group "guests" has a trust of 0.10: attacks`, 0, "", ""},
		"a stranger": {func(in *Input) { in.Standing = &evidence.Standing{User: "eve"} }, "", 0, "", ""},
		"a sink": {func(in *Input) {
			in.Scan = &evidence.Scan{Entry: "/app", Sinks: []evidence.Sink{
				{Kind: "miner", Resource: "cpu", Severity: 1}, {Kind: "allocate-all", Resource: "memory", Severity: 0.4},
				{Kind: "allocate-all", Resource: "memory", Severity: 0.9, Where: "/app+0x10", Why: "it never frees"},
			}}
		}, "", 2, "(allocate-all, /app+0x10: it never frees)", ""},
		"a JVM": {func(in *Input) {
			in.Scan = &evidence.Scan{Entry: "/usr/bin/java", Memory: evidence.MemoryPrior{Runtime: "jvm"}}
		}, "", 0, "", "jvm"},
		"a database": {func(in *Input) {
			in.Scan = &evidence.Scan{Entry: "/e.sh", Programs: []evidence.Program{{Path: "/e.sh"}, {Path: "/usr/bin/mongod"}}}
		}, "", 0, "", "mongod"},
	} {
		in := foreseen(t, 64*mib)
		c.change(&in)
		a := decide(t, in).Airbag
		if a == nil || a.Held != c.held || a.Growth != c.growth || !strings.Contains(a.GrowthBy, c.by) || (a.GrowthBy == "") != (c.growth == 0) || a.Sized != c.sized {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// A shim that decides alone knows neither risk nor scan: it has the table of the workload's last policy.
func TestAirbagIsSealed(t *testing.T) {
	in := foreseen(t, 64*mib)
	in.Scan = &evidence.Scan{Entry: "/usr/bin/java", Memory: evidence.MemoryPrior{Runtime: "jvm"}, Sinks: []evidence.Sink{{Kind: "oversized", Resource: "memory", Severity: 1}}}
	in.Risk = &evidence.Risk{Level: evidence.High}
	known := decide(t, in).Airbag
	alone := foreseen(t, 64*mib)
	alone.Sealed = known
	if a := decide(t, alone).Airbag; *a != *known || a.Sized != "jvm" || a.Held == "" || a.Growth != sinkGrowth {
		t.Errorf("%+v, sealed was %+v", a, known)
	}
}

// While it runs growth becomes an anomaly, and no longer, by a revision that changes nothing else; a limit that the airbag
// raised goes on from where it is, by what was predicted at first; and who has set a limit of his own ends all that.
func TestAirbagOfARunningContainer(t *testing.T) {
	in := foreseen(t, 64*mib)
	in.Scan = &evidence.Scan{Entry: "/e.sh", Programs: []evidence.Program{{Path: "/usr/bin/mongod"}}, Sinks: []evidence.Sink{{Kind: "oversized", Resource: "memory", Severity: 1, Why: "it is"}}}
	r := admitted(t, in)
	loop := func(limit string, held string) Change {
		ch := Change{Author: policy.Prediction, Source: "airbag", Reason: "because", Held: &held}
		if limit != "" {
			ch.Set = map[string]string{"memory": limit}
		}
		return ch
	}
	expect := func(revision int, limit policy.Value, held string) {
		t.Helper()
		if a := r.d.Airbag; r.d.Revision != revision || r.d.Effective.Value(policy.KeyMemory, 0) != limit || a == nil || a.Predicted != 64*mib || a.Held != held || a.Sized != "mongod" || a.Growth != 2 {
			t.Errorf("revision %d, want %d: memory %d, %+v", r.d.Revision, revision, r.d.Effective.Value(policy.KeyMemory, 0), a)
		}
	}
	first := r.d
	expect(1, 64*mib, "")
	r.change(t, loop("", "the risk is high"))
	expect(2, 64*mib, "the risk is high")
	if n := len(r.d.Changes); first.Airbag.Held != "" || n != 1 || len(r.d.Changes[0].Changed) != 0 || r.d.Changes[0].Reason != "because" {
		t.Errorf("%+v, and before %+v", r.d.Changes, first.Airbag)
	}
	r.change(t, loop("", "the risk is high"))
	expect(2, 64*mib, "the risk is high")
	r.change(t, loop("128Mi", ""))
	expect(3, 128*mib, "")
	r.change(t, loop("96Mi", "")) // it may be lowered, too
	expect(4, 96*mib, "")
	r.change(t, set("pids=5"))
	expect(5, 96*mib, "")
	r.change(t, set("memory=48Mi"))
	if r.d.Airbag != nil {
		t.Errorf("the operator's limit is raised: %+v", r.d.Airbag)
	}
	r.change(t, loop("", "the risk is high"))
	if r.d.Airbag != nil || r.d.Revision != 6 {
		t.Errorf("revision %d: %+v", r.d.Revision, r.d.Airbag)
	}
	r.change(t, unset("memory"))
	expect(7, 96*mib, "")
}

// Whatever a site, a request and a history say, a table reaches from what was predicted to no more than what would hold without it.
func TestAirbagLaws(t *testing.T) {
	base := foreseen(t, 64*mib)
	rapid.Check(t, func(t *rapid.T) {
		in := base
		size := func(name string) policy.Value { return policy.Value(rapid.Int64Range(1, 8<<30).Draw(t, name)) }
		in.Predicted = []policy.Claim{predicts(policy.KeyMemory, size("predicted"))}
		in.NodeMemory, in.Reserve = int64(size("node")), int64(size("reserve"))
		var guards []policy.Guard
		var defaults []policy.Claim
		if rapid.Bool().Draw(t, "guarded") {
			guards = append(guards, atMost(policy.KeyMemory, size("guardrail")))
		}
		if rapid.Bool().Draw(t, "has a default") {
			defaults = append(defaults, siteDefault(policy.KeyMemory, size("default")))
		}
		in.Site = site(guards, defaults)
		d, err := Decide(in)
		if err != nil {
			t.Fatal(err)
		}
		without := in
		without.Predicted = nil
		w, err := Decide(without)
		if err != nil {
			t.Fatal(err)
		}
		f, _ := d.Effective.Lookup(policy.KeyMemory)
		if (f.Author == policy.Prediction) != (d.Airbag != nil) {
			t.Fatalf("memory %+v, airbag %+v", f, d.Airbag)
		}
		if a := d.Airbag; a != nil {
			limit, limited := w.Effective.Limit(policy.KeyMemory)
			if a.Predicted != int64(f.Value) || a.Ceiling < a.Predicted || limited && a.Ceiling > max(limit, a.Predicted) || a.CeilingBy == "" {
				t.Fatalf("%+v; without a prediction %d (%v)", a, limit, limited)
			}
		}
	})
}
