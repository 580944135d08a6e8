package recommend

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Safeguard is something that can be done about a risk.
type Safeguard string

// The safeguards, from mild to strong.
const (
	Pids           Safeguard = "pids"       // at most 1024 processes
	Shares         Safeguard = "cpu_shares" // a quarter of the usual share when the processors are busy
	NoNewPrivs     Safeguard = "no_new_privileges"
	SensitiveCalls Safeguard = "sensitive_calls" // sensitive calls that nothing speaks for are refused
	Enforce        Safeguard = "enforce"         // every call that nothing speaks for is refused
	ReadonlyRoot   Safeguard = "readonly_root"
	NetworkOff     Safeguard = "network_off"
)

// Safeguards lists them all.
var Safeguards = []Safeguard{Pids, Shares, NoNewPrivs, SensitiveCalls, Enforce, ReadonlyRoot, NetworkOff}

// DefaultSafeguards is which safeguards are weighed at which level of risk.
func DefaultSafeguards() map[evidence.Level][]Safeguard {
	return map[evidence.Level][]Safeguard{
		evidence.Low:      nil,
		evidence.Medium:   nil, // watched, told of, and nothing changed: half of what is suspected is wrong
		evidence.High:     {Pids, Shares, SensitiveCalls, NoNewPrivs, Enforce},
		evidence.Critical: Safeguards,
	}
}

// grounds are the factors for which somebody has found something. What a container asks for, that it is new, and that the
// node is busy are no reasons to hold back what stock runc would allow: they only add to the risk of those that have one.
var grounds = []string{evidence.FactorVulnerabilities, evidence.FactorThreats, evidence.FactorTechniques, evidence.FactorAnomaly,
	evidence.FactorProfile, evidence.FactorSinks}

// Allowed is which safeguards are weighed against a risk: those of the level that its grounds alone come to.
func Allowed(r evidence.Risk) []Safeguard {
	found := slices.DeleteFunc(slices.Clone(r.Factors), func(f evidence.Factor) bool { return !slices.Contains(grounds, f.Name) })
	return DefaultSafeguards()[risk.Of(found).Level]
}

// Costs say what is worse. Only their ratio matters.
type Costs struct {
	Incident float64 // of what the risk is about, once
	Breakage float64 // of an application that a safeguard breaks
}

// DefaultCosts: an intrusion costs ten times what a broken start costs.
func DefaultCosts() Costs { return Costs{Incident: 10, Breakage: 1} }

// removes is the part of a factor that a safeguard takes away: judgement; those of the two about calls were chosen
// after looking at what they stop of recorded attacks (docs/predictor/risk.md), and are not computed from it.
var removes = map[Safeguard]map[string]float64{
	Pids:       {evidence.FactorSinks: 0.3},
	Shares:     {evidence.FactorSinks: 0.3, evidence.FactorLoad: 0.8},
	NoNewPrivs: {evidence.FactorPrivileges: 0.2, evidence.FactorTechniques: 0.1},
	SensitiveCalls: {evidence.FactorVulnerabilities: 0.5, evidence.FactorTechniques: 0.5, evidence.FactorNovelty: 0.5,
		evidence.FactorAnomaly: 0.5, evidence.FactorPrivileges: 0.2},
	Enforce: {evidence.FactorVulnerabilities: 0.6, evidence.FactorTechniques: 0.6, evidence.FactorNovelty: 0.9,
		evidence.FactorAnomaly: 0.6, evidence.FactorPrivileges: 0.3},
	ReadonlyRoot: {evidence.FactorVulnerabilities: 0.2, evidence.FactorTechniques: 0.2, evidence.FactorSinks: 0.1},
	NetworkOff: {evidence.FactorThreats: 0.95, evidence.FactorTechniques: 0.4, evidence.FactorVulnerabilities: 0.5,
		evidence.FactorSinks: 0.5, evidence.FactorProfile: 0.3},
}

// Option is one safeguard with what it is worth here.
type Option struct {
	Safeguard Safeguard `json:"safeguard"`
	Removed   float64   `json:"removed"`  // points of the score that it alone takes away
	Breakage  float64   `json:"breakage"` // probability that it breaks the application
	Chosen    bool      `json:"chosen"`
	Why       string    `json:"why"` // of the breakage
}

// Trade is what was weighed: risk removed against the probability of breaking the application.
type Trade struct {
	Options []Option `json:"options,omitempty"`
	Score   float64  `json:"score"` // of the risk that is left
	Cost    float64  `json:"cost"`  // expected, of what was chosen
	Open    float64  `json:"open"`  // of doing nothing
	Strict  float64  `json:"strict"`
}

// String is the trade in a line, for explain.
func (t Trade) String() string {
	if len(t.Options) == 0 {
		return ""
	}
	var words []string
	for _, o := range t.Options {
		word := "not "
		if o.Chosen {
			word = ""
		}
		words = append(words, fmt.Sprintf("%s%s (-%.0f risk, %.2g breaks)", word, o.Safeguard, o.Removed, o.Breakage))
	}
	return fmt.Sprintf("safeguards: %s; expected cost %.2f, of nothing %.2f, of all %.2f", strings.Join(words, ", "), t.Cost, t.Open, t.Strict)
}

// Known is what a trade looks at.
type Known struct {
	Prediction workload.Prediction
	Scan       *evidence.Scan // nil: none
	Risk       evidence.Risk
}

// Weigh returns the subset of the safeguards that minimises the expected cost
//
//	Incident · risk left / 100 + Breakage · (1 − Π(1 − breakage))
//
// over all subsets: there are at most 2^7. Factors shrink by what each safeguard removes of them, one after the other;
// breakages are taken for independent. Of equal costs the one with fewer safeguards is chosen.
func Weigh(k Known, allowed []Safeguard, c Costs) Trade {
	var list []Safeguard
	for _, s := range Safeguards {
		if slices.Contains(allowed, s) && (s != SensitiveCalls && s != Enforce || callsAreKnown(k)) {
			list = append(list, s)
		}
	}
	breakages, reasons := make([]float64, len(list)), make([]string, len(list))
	for i, s := range list {
		breakages[i], reasons[i] = breakage(s, k)
	}
	cost := func(set int) (score, cost float64) {
		var with []Safeguard
		fine := 1.0
		for i, s := range list {
			if set&(1<<i) != 0 {
				with = append(with, s)
				fine *= 1 - breakages[i]
			}
		}
		score = left(k.Risk, with)
		return score, c.Incident*score/100 + c.Breakage*(1-fine)
	}
	all := 1<<len(list) - 1
	t := Trade{}
	t.Score, t.Open = cost(0)
	_, t.Strict = cost(all)
	best := 0
	t.Cost = t.Open
	for set := 1; set <= all; set++ {
		if score, x := cost(set); x < t.Cost-1e-12 {
			best, t.Cost, t.Score = set, x, score
		}
	}
	for i, s := range list {
		alone, _ := cost(1 << i)
		t.Options = append(t.Options, Option{Safeguard: s, Removed: k.Risk.Score - alone, Breakage: breakages[i], Why: reasons[i], Chosen: best&(1<<i) != 0})
	}
	return t
}

// runsForCalls is how many runs have to have shown a workload's calls where static analysis cannot.
const runsForCalls = 4

// callsAreKnown tells whether enough is known of a workload's calls to refuse others: with thin evidence a refusal
// is a broken application, and what is watched is stopped where it is dangerous all the same.
func callsAreKnown(k Known) bool { return k.Prediction.Runs >= runsForCalls || k.Scan.Complete() }

// left is the score of a risk under safeguards.
func left(r evidence.Risk, with []Safeguard) float64 {
	factors := slices.Clone(r.Factors)
	for i := range factors {
		for _, s := range with {
			factors[i].Likelihood *= 1 - removes[s][factors[i].Name]
		}
	}
	return risk.Of(factors).Score
}

// sensitiveShare is the part of first-seen calls of honest programs that are sensitive ones: few of them are, and programs
// make those early.
const sensitiveShare = 0.25

// breakage is the probability that a safeguard breaks the application's next run.
func breakage(s Safeguard, k Known) (float64, string) {
	p := k.Prediction
	rule := 1 / float64(p.Runs+2) // of succession: something that n runs did not do
	unseen := p.Unseen
	if math.IsNaN(unseen) || unseen > 1 || p.Runs < 1 {
		unseen = 1
	}
	if k.Scan.Complete() {
		unseen = min(unseen, 0.05) // the scan speaks for what runs have not shown yet
	}
	unseen = max(unseen, 0)
	switch s {
	case SensitiveCalls:
		return unseen * sensitiveShare, fmt.Sprintf("a quarter of the probability %.2f of a call never seen", unseen)
	case Enforce:
		return unseen, fmt.Sprintf("the probability of a call never seen, %.2f", unseen)
	case ReadonlyRoot:
		switch {
		case p.RootfsWrites == workload.Yes:
			return 0.95, "earlier runs wrote to the root filesystem"
		case p.RootfsWrites == workload.No:
			return rule, fmt.Sprintf("none of %s wrote to it", runs(p.Runs))
		}
		return 0.5, "nobody knows whether it writes"
	case NetworkOff:
		switch {
		case len(p.Destinations) > 0:
			return 0.95, "earlier runs reached others"
		case k.Scan != nil && len(k.Scan.Ports) > 0:
			return 0.95, "it listens on ports"
		}
		return max(rule, 0.05), fmt.Sprintf("in %s it reached nobody", runs(p.Runs))
	case NoNewPrivs:
		return 0.02, "few programs gain privileges on purpose"
	case Pids:
		if p.PIDs.Value > 512 {
			return 0.5, "it uses more than 512 processes"
		}
		return 0.01, "few programs need 1024 processes"
	}
	return 0.005, "it only waits longer when the node is busy"
}

// Protect returns the claims that a trade makes. sensitive lists the sensitive calls.
func Protect(t Trade, k Known, sensitive []string) []policy.Claim {
	var out []policy.Claim
	claim := func(o Option, key policy.Key, v policy.Value) {
		out = append(out, policy.Claim{Key: key, Value: v, Origin: policy.Origin{Author: policy.Prediction, Source: "risk " + string(k.Risk.Level),
			Reason: fmt.Sprintf("removes %.0f of %.0f points of risk, breaks the application with probability %.2g: %s", o.Removed, k.Risk.Score, o.Breakage, o.Why)}})
	}
	for _, o := range t.Options {
		if !o.Chosen {
			continue
		}
		switch o.Safeguard {
		case Pids:
			claim(o, policy.KeyPIDs, 1024)
		case Shares:
			claim(o, policy.KeyCPUShares, 256)
		case NoNewPrivs:
			claim(o, policy.KeyNoNewPrivileges, policy.Tight)
		case Enforce:
			claim(o, policy.KeyMode, policy.ModeEnforce)
		case ReadonlyRoot:
			claim(o, policy.KeyReadonlyRoot, policy.Tight)
		case NetworkOff:
			claim(o, policy.KeyNetwork, policy.Tight)
		case SensitiveCalls:
			for _, name := range sensitive {
				if Refuses(o.Safeguard, name, k) {
					claim(o, policy.KeySyscalls.Member(name), policy.SyscallDeny)
				}
			}
		}
	}
	return out
}

// startCalls are made by runc on the way to the program, with the profile in force: refused by name, nothing would start.
var startCalls = map[string]bool{
	"execve": true, "execveat": true, "setuid": true, "setgid": true, "setgroups": true, "setresuid": true, "setresgid": true, "setreuid": true,
	"setregid": true, "setuid32": true, "setgid32": true, "setgroups32": true, "capset": true, "seccomp": true, "memfd_create": true, "clone3": true,
}

// Refuses tells whether a safeguard about calls refuses one, given that the call is of the kind the safeguard is about:
// nothing speaks for it, neither an earlier run nor the scan.
func Refuses(s Safeguard, call string, k Known) bool {
	if s != SensitiveCalls && s != Enforce || k.Prediction.Seen[call] > 0 || s == SensitiveCalls && startCalls[call] {
		return false
	}
	return k.Scan == nil || !slices.Contains(k.Scan.Syscalls, call)
}
