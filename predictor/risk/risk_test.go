package risk

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
)

func TestOfKnownAnswers(t *testing.T) {
	r := Of([]evidence.Factor{
		{Name: "a", Severity: 1, Likelihood: 0.5}, {Name: "b", Severity: 0.5, Likelihood: 0.5}, {Name: "nothing", Severity: 1},
		{Name: "wrong", Severity: math.NaN(), Likelihood: 2},
	})
	if math.Abs(r.Score-62.5) > 1e-9 || r.Level != evidence.High || len(r.Factors) != 2 || r.Factors[0].Name != "a" {
		t.Errorf("%+v", r)
	}
	if want := math.Log(2) / (math.Log(2) + math.Log(4.0/3)); math.Abs(r.Factors[0].Share-want) > 1e-9 {
		t.Errorf("share %v, want %v", r.Factors[0].Share, want)
	}
	if none := Of(nil); none.Score != 0 || none.Level != evidence.Low || none.Factors != nil {
		t.Errorf("%+v", none)
	}
	if all := Of([]evidence.Factor{{Severity: 9, Likelihood: 9}}); all.Score > 100 || all.Level != evidence.Critical {
		t.Errorf("%+v", all)
	}
}

func TestLevels(t *testing.T) {
	for score, want := range map[float64]evidence.Level{0: evidence.Low, 24.9: evidence.Low, 25: evidence.Medium, 50: evidence.High, 75: evidence.Critical, 100: evidence.Critical} {
		if got := LevelOf(score); got != want {
			t.Errorf("%v is %s, want %s", score, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	f := join("x", []finding{{0.8, 0.5, "first"}, {0.4, 1, "second"}, {1, 0, "never"}})
	// 1 - (1-.5)(1-.4/.8) = .75
	if f.Severity != 0.8 || math.Abs(f.Likelihood-0.75) > 1e-9 || f.Why != "first; 1 more" {
		t.Errorf("%+v", f)
	}
	if f := join("x", nil); f.Severity != 0 || f.Likelihood != 0 || f.Why != "" {
		t.Errorf("%+v", f)
	}
}

// Examples that people agree about, and where they should end.
func TestAssessExamples(t *testing.T) {
	stranger := []evidence.Standing{{User: "alice", Trust: 0.5}}
	for name, c := range map[string]struct {
		in   Input
		want evidence.Level
		top  string
	}{
		"nothing known":     {Input{}, evidence.Low, ""},
		"a plain first run": {Input{Known: true, Unseen: 1, Standings: stranger, Privileges: Privileges{Root: true}}, evidence.Low, evidence.FactorNovelty},
		"an old image with many vulnerabilities nobody exploits": {Input{Known: true, Runs: 50, Vulnerabilities: many(150, evidence.Vulnerability{ID: "CVE-1", Severity: 7, Exploited: 0.002})},
			evidence.Low, evidence.FactorVulnerabilities},
		"one that is exploited and reachable": {Input{Vulnerabilities: []evidence.Vulnerability{{ID: "CVE-2021-44228", Severity: 10, Exploited: 0.95, Reachable: true}}},
			evidence.Critical, evidence.FactorVulnerabilities},
		"not rated":  {Input{Vulnerabilities: []evidence.Vulnerability{{ID: "CVE-2", Exploited: 0.6, Reachable: true}}}, evidence.Medium, evidence.FactorVulnerabilities},
		"privileged": {Input{Privileges: Privileges{Privileged: true}}, evidence.Medium, evidence.FactorPrivileges},
		"with the host's root": {Input{Privileges: Privileges{Privileged: true, HostPID: true, HostNetwork: true, HostIPC: true, Unconfined: true, NewPrivs: true,
			HostMounts: []string{"/", "/run/containerd/containerd.sock", "/data"}}}, evidence.High, evidence.FactorPrivileges},
		"a miner with a listed address": {Input{Known: true, Unseen: 1, Sinks: []evidence.Sink{{Kind: "miner", Severity: 0.7}}, Contacts: []evidence.Contact{{Confidence: 0.6}}},
			evidence.Critical, evidence.FactorSinks},
		"refused contact": {Input{Contacts: []evidence.Contact{{Confidence: 0.9, Refused: true}}}, evidence.High, evidence.FactorThreats},
		"an escape":       {Input{Techniques: []evidence.Technique{{Severity: 0.95, Confidence: 0.85}}}, evidence.Critical, evidence.FactorTechniques},
		"anomalies": {Input{Anomalies: []evidence.Anomaly{{Kind: evidence.AnomalyPrograms, Score: 2, Threshold: 1}, {Kind: "other", Score: -1, Threshold: -2}, {Score: 0, Threshold: 1}}},
			evidence.High, evidence.FactorAnomaly},
		"no anomaly":    {Input{Anomalies: []evidence.Anomaly{{Score: math.NaN(), Threshold: 1}}}, evidence.Low, ""},
		"bad standing":  {Input{Standings: []evidence.Standing{{Group: "x", Trust: 0.1}}}, evidence.Medium, evidence.FactorProfile},
		"an odd sink":   {Input{Sinks: []evidence.Sink{{Kind: "other", Severity: 1}}}, evidence.Medium, evidence.FactorSinks},
		"a busy node":   {Input{Load: &evidence.Load{CPU: 0.97, Tight: map[string]string{"cpu": "97 %"}}}, evidence.Low, evidence.FactorLoad},
		"an idle node":  {Input{Load: &evidence.Load{CPU: 0.97}}, evidence.Low, ""},
		"first of many": {Input{Known: true, Runs: 3, Unseen: 0.1}, evidence.Low, evidence.FactorNovelty},
	} {
		r := Assess(c.in)
		if r.Level != c.want {
			t.Errorf("%s: %s, %.1f; want %s: %+v", name, r.Level, r.Score, c.want, r.Factors)
		}
		switch {
		case c.top == "" && len(r.Factors) > 0, c.top != "" && (len(r.Factors) == 0 || r.Factors[0].Name != c.top):
			t.Errorf("%s: first factor is not %q: %+v", name, c.top, r.Factors)
		}
	}
}

func many(n int, v evidence.Vulnerability) []evidence.Vulnerability {
	var out []evidence.Vulnerability
	for range n {
		out = append(out, v)
	}
	return out
}

func TestMounts(t *testing.T) {
	for path, want := range map[string]string{
		"/var/run/docker.sock": "/var/run/docker.sock", "/etc/shadow": "/etc", "/data/x": "", "/": "/", "/srv": "", "etc": "/etc",
		"/run/containerd/containerd.sock": "/run/containerd",
	} {
		if _, at := mountOf(path); at != want {
			t.Errorf("%s is of %q, want %q", path, at, want)
		}
	}
	// What runtimes mount into every container is no reason.
	plain := Privileges{HostMounts: []string{"/var/lib/docker/containers/1f/hostname", "/var/lib/kubelet/pods/1/volumes/x", "/etc/resolv.conf"}}
	if f := plain.factor(); f.Severity != 0 {
		t.Errorf("%+v", f)
	}
	writable, readable := Privileges{HostMounts: []string{"/etc"}}, Privileges{HostMounts: []string{"/etc"}, ReadOnly: []string{"/etc"}}
	w, r := writable.factor(), readable.factor()
	if !(weight(w) > weight(r)) || !strings.Contains(r.Why, "read-only") {
		t.Errorf("%+v %+v", w, r)
	}
	host, user := Privileges{Capabilities: []string{"CAP_SYS_ADMIN"}}, Privileges{Capabilities: []string{"sys_admin"}, UserNS: true}
	if w, r := host.factor(), user.factor(); !(weight(w) > weight(r) && weight(r) > 0) {
		t.Errorf("%+v %+v", w, r)
	}
	if f := (Privileges{Capabilities: []string{"CHOWN", "NET_BIND_SERVICE", "KILL"}}).factor(); f.Severity != 0 {
		t.Errorf("the default set is a reason: %+v", f)
	}
}

// number draws what a hostile or careless source may say.
func number(label string) *rapid.Generator[float64] {
	return rapid.Custom(func(t *rapid.T) float64 {
		if rapid.IntRange(0, 20).Draw(t, label+" odd") == 0 {
			return rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 7}).Draw(t, label)
		}
		return rapid.Float64Range(0, 1).Draw(t, label)
	})
}

func drawFindings(t *rapid.T) []finding {
	var out []finding
	for range rapid.IntRange(0, 5).Draw(t, "n") {
		out = append(out, finding{number("severity").Draw(t, "s"), number("likelihood").Draw(t, "l"), "why"})
	}
	return out
}

// Score and shares stay in their ranges, and a factor that grows never lowers the score.
func TestRiskIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var factors []evidence.Factor
		for range rapid.IntRange(1, 9).Draw(t, "factors") {
			factors = append(factors, evidence.Factor{Severity: number("s").Draw(t, "s"), Likelihood: number("l").Draw(t, "l")})
		}
		before := Of(factors)
		sum := 0.0
		for _, f := range before.Factors {
			sum += f.Share
		}
		if !(before.Score >= 0 && before.Score <= 100) || len(before.Factors) > 0 && math.Abs(sum-1) > 1e-9 {
			t.Fatalf("%+v, shares sum to %v", before, sum)
		}
		grown := append([]evidence.Factor(nil), factors...)
		i := rapid.IntRange(0, len(grown)-1).Draw(t, "which")
		grown[i].Severity = unit(grown[i].Severity) + rapid.Float64Range(0, 1).Draw(t, "ds")
		grown[i].Likelihood = unit(grown[i].Likelihood) + rapid.Float64Range(0, 1).Draw(t, "dl")
		if after := Of(grown); after.Score < before.Score-1e-9 {
			t.Fatalf("%v became %v", before.Score, after.Score)
		}
	})
}

// The same holds within a factor, and one finding more never helps.
func TestJoinIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawFindings(t)
		copied := func() []finding { return append([]finding(nil), list...) }
		before := weight(join("x", copied()))
		if one := weight(join("x", append(copied(), finding{number("s").Draw(t, "s"), number("l").Draw(t, "l"), ""}))); one < before-1e-9 {
			t.Fatalf("one more: %v became %v", before, one)
		}
		if len(list) == 0 {
			return
		}
		grown := copied()
		i := rapid.IntRange(0, len(grown)-1).Draw(t, "which")
		grown[i].severity = unit(grown[i].severity) + rapid.Float64Range(0, 1).Draw(t, "ds")
		grown[i].likelihood = unit(grown[i].likelihood) + rapid.Float64Range(0, 1).Draw(t, "dl")
		if after := weight(join("x", grown)); after < before-1e-9 {
			t.Fatalf("grown: %v became %v", before, after)
		}
	})
}

// What a container is given, and what is found about it, never lowers its risk.
func TestAssessIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Known: true, Runs: rapid.IntRange(0, 10).Draw(t, "runs"), Unseen: number("unseen").Draw(t, "u"),
			Privileges: Privileges{Root: rapid.Bool().Draw(t, "root"), Capabilities: rapid.SliceOfN(rapid.SampledFrom([]string{"SYS_ADMIN", "NET_RAW", "X"}), 0, 3).Draw(t, "caps")}}
		before := Assess(in).Score
		switch rapid.IntRange(0, 6).Draw(t, "change") {
		case 0:
			in.Privileges.Privileged = true
		case 1:
			in.Privileges.Capabilities = append(in.Privileges.Capabilities, "SYS_MODULE")
		case 2:
			in.Contacts = []evidence.Contact{{Confidence: number("c").Draw(t, "c")}}
		case 3:
			in.Runs = 0
		case 4:
			in.Standings = []evidence.Standing{{Trust: number("t").Draw(t, "t")}}
		case 5:
			in.Anomalies = []evidence.Anomaly{{Kind: evidence.AnomalyUsage, Score: number("a").Draw(t, "a"), Threshold: 0.5}}
		case 6:
			in.Privileges.HostMounts = []string{"/etc"}
		}
		if after := Assess(in).Score; after < before-1e-9 {
			t.Fatalf("%v became %v: %+v", before, after, in)
		}
	})
}

// A factor says whose word on the exploitation of a vulnerability it goes by.
func TestWhoSaysExploited(t *testing.T) {
	v := evidence.Vulnerability{ID: "CVE-2024-0001", Package: "p", Version: "1", Severity: 9.8, Exploited: 0.95, Reachable: true}
	for by, want := range map[string]string{"": "exploited with probability 0.95", "kev.json": "exploited with probability 0.95 by kev.json"} {
		v.ExploitedBy = by
		if f := vulnerabilities([]evidence.Vulnerability{v}); !strings.HasSuffix(f.Why, want) {
			t.Errorf("%q", f.Why)
		}
	}
}
