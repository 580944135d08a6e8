package recommend

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

func TestWeighKnownAnswer(t *testing.T) {
	k := Known{Prediction: workload.Prediction{Runs: 8, Unseen: 0.1},
		Risk: risk.Of([]evidence.Factor{{Name: evidence.FactorVulnerabilities, Severity: 1, Likelihood: 0.5}})}
	// Nothing: 10*.5 = 5. Enforcing: 10*.5*.4 + .1 = 2.1.
	trade := Weigh(k, []evidence.Safeguard{evidence.SafeguardEnforce}, Costs{10, 1})
	if math.Abs(trade.Open-5) > 1e-9 || math.Abs(trade.Cost-2.1) > 1e-9 || math.Abs(trade.Score-20) > 1e-9 || !slices.Equal(trade.Chosen(), []evidence.Safeguard{evidence.SafeguardEnforce}) {
		t.Errorf("%+v", trade)
	}
	// Where a broken application costs more than what is removed, nothing is done.
	if trade := Weigh(k, []evidence.Safeguard{evidence.SafeguardEnforce}, Costs{1, 10}); trade.Chosen() != nil || trade.Cost != trade.Open {
		t.Errorf("%+v", trade)
	}
	if trade := Weigh(k, nil, DefaultCosts()); trade.String() != "" || trade.Cost != trade.Strict {
		t.Errorf("%+v", trade)
	}
}

// A miner that reaches a listed address loses its network; a web server at risk does not.
func TestWeighNetwork(t *testing.T) {
	r := risk.Assess(risk.Input{Sinks: []evidence.Sink{{Kind: "miner", Severity: 0.8}}, Contacts: []evidence.Contact{{Confidence: 0.9}}})
	k := Known{Prediction: workload.Prediction{Unseen: 1}, Risk: r}
	trade := DefaultTable().Weigh(k)
	if r.Level != evidence.Critical || !slices.Contains(trade.Chosen(), evidence.SafeguardNetworkOff) || slices.ContainsFunc(trade.Options, func(o Option) bool { return o.Safeguard == evidence.SafeguardSensitiveCalls }) {
		t.Errorf("%s %+v", r.Level, trade)
	}
	claims := Protect(trade, k, []string{"ptrace"}, nil)
	if !slices.ContainsFunc(claims, func(c policy.Claim) bool {
		return c.Key == policy.KeyNetwork && c.Value == policy.Tight && c.Author == policy.Prediction && c.Source == "risk critical"
	}) || !strings.Contains(trade.String(), "network_off") {
		t.Errorf("%+v", claims)
	}
	server := Known{Prediction: workload.Prediction{Runs: 20, Unseen: 0.05, Destinations: []string{"tcp/10.0.0.1:5432"}}, Scan: &evidence.Scan{Ports: []evidence.Port{{Number: 80}}},
		Risk: risk.Assess(risk.Input{Vulnerabilities: []evidence.Vulnerability{{Severity: 7, Exploited: 0.9, Reachable: true}}})}
	if trade := DefaultTable().Weigh(server); slices.Contains(trade.Chosen(), evidence.SafeguardNetworkOff) || trade.Chosen() == nil {
		t.Errorf("%+v", trade)
	}
}

// Nothing is held back from a container because of what it asks for, however much that is.
func TestNothingWithoutGrounds(t *testing.T) {
	asks := []evidence.Factor{{Name: evidence.FactorPrivileges, Severity: 1, Likelihood: 0.9}, {Name: evidence.FactorNovelty, Severity: 0.2, Likelihood: 1},
		{Name: evidence.FactorLoad, Severity: 0.2, Likelihood: 1}}
	if r := risk.Of(asks); r.Level != evidence.Critical || DefaultTable().Allowed(r) != nil {
		t.Errorf("%s: %v", r.Level, DefaultTable().Allowed(r))
	}
	if r := risk.Of(append(asks, evidence.Factor{Name: evidence.FactorThreats, Severity: 0.8, Likelihood: 0.7})); !slices.Contains(DefaultTable().Allowed(r), evidence.SafeguardEnforce) {
		t.Errorf("%s: %v", r.Level, DefaultTable().Allowed(r))
	}
}

func TestProtect(t *testing.T) {
	k := Known{Prediction: workload.Prediction{Runs: 1, Seen: map[string]int{"socket": 1, "read": 2, "futex": 1}, Hot: []string{"futex"}, Destinations: []string{"tcp/10.0.0.1:80"}}, NameServers: []string{"10.0.0.53"}, Scan: &evidence.Scan{Syscalls: []string{"bind"}}}
	var all Trade
	for _, s := range evidence.Safeguards {
		all.Options = append(all.Options, Option{Safeguard: s, Chosen: true})
	}
	want := map[policy.Key]policy.Value{
		policy.KeyPIDs: 1024, policy.KeyCPUShares: 256, policy.KeyNoNewPrivileges: policy.Tight, policy.KeyMode: policy.ModeEnforce,
		policy.KeyReadonlyRoot: policy.Tight, policy.KeyNetwork: policy.Tight, policy.KeySyscalls.Member("chroot"): policy.SyscallDeny,
		policy.KeySyscalls.Member("socket"): policy.SyscallWatch, policy.KeyEgressFeeds: policy.FeedsBlock, policy.KeyEgressDefault: policy.Tight,
		policy.KeyEgress.Member("10.0.0.1"): policy.Loose, policy.KeyEgress.Member("10.0.0.53"): policy.Loose,
	}
	got := Protect(all, k, []string{"socket", "bind", "chroot", "execve"}, names("read"))
	for _, c := range got {
		if v, ok := want[c.Key]; !ok || v != c.Value || c.Reason == "" {
			t.Errorf("%+v", c)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d claims, want %d", len(got), len(want))
	}
}

func TestBreakage(t *testing.T) {
	for name, c := range map[string]struct {
		s    evidence.Safeguard
		k    Known
		want float64
	}{
		"no history":     {evidence.SafeguardEnforce, Known{}, 1},
		"not a number":   {evidence.SafeguardEnforce, Known{Prediction: workload.Prediction{Runs: 3, Unseen: math.NaN()}}, 1},
		"complete scan":  {evidence.SafeguardEnforce, Known{Scan: &evidence.Scan{Syscalls: []string{"read"}}}, 0.05},
		"wrote":          {evidence.SafeguardReadonlyRoot, Known{Prediction: workload.Prediction{RootfsWrites: workload.Yes}}, 0.95},
		"never wrote":    {evidence.SafeguardReadonlyRoot, Known{Prediction: workload.Prediction{Runs: 8, RootfsWrites: workload.No}}, 0.1},
		"maybe wrote":    {evidence.SafeguardReadonlyRoot, Known{}, 0.5},
		"quiet":          {evidence.SafeguardNetworkOff, Known{Prediction: workload.Prediction{Runs: 8}}, 0.1},
		"many processes": {evidence.SafeguardPIDs, Known{Prediction: workload.Prediction{PIDs: workload.Bound{Value: 600}}}, 0.5},
	} {
		if got, why := breakage(c.s, c.k); math.Abs(got-c.want) > 1e-9 || why == "" {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// The choice is never worse than doing nothing or everything, and each more allowed safeguard never costs more.
func TestWeighIsBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.Float64Range(0, 1)
		var factors []evidence.Factor
		for _, name := range []string{evidence.FactorVulnerabilities, evidence.FactorThreats, evidence.FactorSinks, evidence.FactorNovelty} {
			factors = append(factors, evidence.Factor{Name: name, Severity: unit.Draw(t, "s"), Likelihood: unit.Draw(t, "l")})
		}
		k := Known{Prediction: workload.Prediction{Runs: rapid.IntRange(0, 30).Draw(t, "runs"), Unseen: unit.Draw(t, "unseen")}, Risk: risk.Of(factors)}
		costs := Costs{rapid.Float64Range(0, 100).Draw(t, "incident"), rapid.Float64Range(0, 100).Draw(t, "breakage")}
		n := rapid.IntRange(0, len(evidence.Safeguards)-1).Draw(t, "n")
		few, more := Weigh(k, evidence.Safeguards[:n], costs), Weigh(k, evidence.Safeguards[:n+1], costs)
		if few.Cost > min(few.Open, few.Strict)+1e-9 || more.Cost > few.Cost+1e-9 || few.Score > k.Risk.Score+1e-9 {
			t.Fatalf("%+v\n%+v", few, more)
		}
	})
}

// least finds what a look at every set finds.
func TestLeastOfAllSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.Float64Range(0, 1)
		w := weighing{costs: Costs{rapid.Float64Range(0, 100).Draw(t, "incident"), rapid.Float64Range(0, 100).Draw(t, "breakage")}}
		for _, name := range []string{evidence.FactorVulnerabilities, evidence.FactorThreats, evidence.FactorTechniques, evidence.FactorSinks} {
			w.factors = append(w.factors, evidence.Factor{Name: name, Severity: unit.Draw(t, "s"), Likelihood: unit.Draw(t, "l")})
		}
		for _, s := range evidence.Safeguards {
			if rapid.Bool().Draw(t, "with") {
				w.add(s, unit.Draw(t, "b"))
			}
		}
		_, got := w.cost(w.least())
		for set := range 1 << len(w.list) {
			if _, c := w.cost(set); c < got-1e-9 {
				t.Fatalf("set %b costs %v, chosen %v", set, c, got)
			}
		}
	})
}

// What stops a container is never weighed, and what has no lever is told of.
func TestWeighWhatThereIs(t *testing.T) {
	k := Known{Risk: risk.Of([]evidence.Factor{{Name: evidence.FactorThreats, Severity: 1, Likelihood: 0.99}})}
	trade := Weigh(k, []evidence.Safeguard{evidence.SafeguardFreeze, evidence.SafeguardKill, "moat"}, DefaultCosts())
	if len(trade.Options)+len(trade.Missing) != 0 {
		t.Errorf("%+v", trade)
	}
	for _, s := range evidence.Safeguards {
		trade := Weigh(k, []evidence.Safeguard{s}, DefaultCosts())
		missing := !HasLever(s) && !s.Final()
		if slices.Contains(trade.Missing, s) != missing || missing && !strings.Contains(trade.String(), string(s)) {
			t.Errorf("%s: %+v", s, trade)
		}
	}
}

func BenchmarkWeigh(b *testing.B) {
	r := risk.Assess(risk.Input{Sinks: []evidence.Sink{{Kind: "miner", Severity: 0.8}}, Contacts: []evidence.Contact{{Confidence: 0.9}},
		Techniques: []evidence.Technique{{Severity: 0.5, Confidence: 0.5}}, Anomalies: []evidence.Anomaly{{Kind: evidence.AnomalyUsage, Score: 2, Threshold: 1}},
		Vulnerabilities: []evidence.Vulnerability{{Severity: 7, Exploited: 0.9, Reachable: true}}, Known: true})
	k := Known{Prediction: workload.Prediction{Runs: 8, Unseen: 0.1}, Risk: r}
	table := DefaultTable()
	for b.Loop() {
		table.Weigh(k)
	}
}
