package recommend

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/workload"
)

// Option is one safeguard with what it is worth here.
type Option struct {
	Safeguard evidence.Safeguard `json:"safeguard"`
	Removed   float64            `json:"removed"`  // points of the score that it alone takes away
	Breakage  float64            `json:"breakage"` // probability that it breaks the application
	Chosen    bool               `json:"chosen"`
	Why       string             `json:"why"` // of the breakage
}

// Trade is what was weighed: risk removed against the probability of breaking the application.
type Trade struct {
	Options []Option `json:"options,omitempty"`
	Score   float64  `json:"score"` // of the risk that is left
	Cost    float64  `json:"cost"`  // expected, of what was chosen
	Open    float64  `json:"open"`  // of doing nothing
	Strict  float64  `json:"strict"`
	// Missing are safeguards that the table names and this version has no lever for.
	Missing []evidence.Safeguard `json:"missing,omitempty"`
}

// String is the trade in a line, for explain.
func (t Trade) String() string {
	if len(t.Options)+len(t.Missing) == 0 {
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
	for _, s := range t.Missing {
		words = append(words, fmt.Sprintf("not %s (no lever for it here)", s))
	}
	return fmt.Sprintf("safeguards: %s; expected cost %.2f, of nothing %.2f, of all %.2f", strings.Join(words, ", "), t.Cost, t.Open, t.Strict)
}

// Chosen lists the safeguards of least cost.
func (t Trade) Chosen() (list []evidence.Safeguard) {
	for _, o := range t.Options {
		if o.Chosen {
			list = append(list, o.Safeguard)
		}
	}
	return list
}

// Known is what a trade looks at.
type Known struct {
	Prediction workload.Prediction
	Scan       *evidence.Scan // nil: none
	Risk       evidence.Risk
	// NameServers are the run's own (workload.Facts): queries by sockets that are not connected, as musl's, are in no history.
	NameServers []string
}

// Weigh returns the subset of the safeguards that minimises the expected cost
//
//	Incident · risk left / 100 + Breakage · (1 − Π(1 − breakage))
//
// over all subsets: there are at most 2^10. Factors shrink by what each safeguard removes of them, one after the other;
// breakages are taken for independent. Of equal costs the first found is kept, which is the milder one. Safeguards that
// stop a container are not weighed: nothing of it is left to be broken.
func Weigh(k Known, allowed []evidence.Safeguard, c Costs) Trade {
	var t Trade
	w := weighing{factors: k.Risk.Factors, costs: c}
	var reasons []string
	for _, s := range evidence.Safeguards {
		switch {
		case !slices.Contains(allowed, s), s.Final(), aboutCalls(s) && !callsAreKnown(k):
		case !HasLever(s):
			t.Missing = append(t.Missing, s)
		default:
			p, why := breakage(s, k)
			w.add(s, p)
			reasons = append(reasons, why)
		}
	}
	t.Score, t.Open = w.cost(0)
	_, t.Strict = w.cost(1<<len(w.list) - 1)
	best := w.least()
	t.Score, t.Cost = w.cost(best)
	for i, s := range w.list {
		alone, _ := w.cost(1 << i)
		t.Options = append(t.Options, Option{Safeguard: s, Removed: k.Risk.Score - alone, Breakage: w.breakages[i], Why: reasons[i], Chosen: best&(1<<i) != 0})
	}
	return t
}

// weighing is what the cost of a set of safeguards depends on. A set has a bit for each of the list.
type weighing struct {
	list      []evidence.Safeguard
	breakages []float64
	leaves    [][]float64 // what each leaves of each factor, 0 to 1
	factors   []evidence.Factor
	costs     Costs
}

func (w *weighing) add(s evidence.Safeguard, breakage float64) {
	leaves := make([]float64, len(w.factors))
	for i, f := range w.factors {
		leaves[i] = 1 - removes[s][f.Name]
	}
	w.list, w.breakages, w.leaves = append(w.list, s), append(w.breakages, breakage), append(w.leaves, leaves)
}

// cost is the score of the risk that a set leaves, and what it is expected to cost.
func (w *weighing) cost(set int) (score, cost float64) {
	products, fine := w.products(), 1.0
	for i := range w.list {
		if set&(1<<i) != 0 {
			fine *= 1 - w.breakages[i]
			w.shrink(products, products, i)
		}
	}
	return w.sum(products, fine)
}

// products are the factors' severity times likelihood.
func (w *weighing) products() []float64 {
	out := make([]float64, len(w.factors))
	for i, f := range w.factors {
		out[i] = f.Severity * f.Likelihood
	}
	return out
}

// shrink puts into products what safeguard i leaves of before.
func (w *weighing) shrink(products, before []float64, i int) {
	for n, rest := range w.leaves[i] {
		products[n] = before[n] * rest
	}
}

// sum is the score as in risk.Of, and the cost.
func (w *weighing) sum(products []float64, fine float64) (score, cost float64) {
	none := 1.0
	for _, p := range products {
		if p > 0 {
			none *= 1 - min(p, risk.Most)
		}
	}
	score = 100 * (1 - none)
	return score, w.costs.Incident*score/100 + w.costs.Breakage*(1-fine)
}

// least finds the set of least cost. It decides about the last safeguard first, so that sets come in the order of their
// numbers, and shrinks factors once for all sets that share a safeguard.
func (w *weighing) least() (best int) {
	least := math.Inf(1)
	levels := make([][]float64, len(w.list)+1)
	for i := range levels {
		levels[i] = w.products()
	}
	var visit func(i, set int, fine float64)
	visit = func(i, set int, fine float64) {
		if i == 0 {
			if _, x := w.sum(levels[0], fine); x < least-1e-12 {
				best, least = set, x
			}
			return
		}
		copy(levels[i-1], levels[i])
		visit(i-1, set, fine)
		w.shrink(levels[i-1], levels[i], i-1)
		visit(i-1, set|1<<(i-1), fine*(1-w.breakages[i-1]))
	}
	visit(len(w.list), 0, 1)
	return best
}

// runsForCalls is how many runs have to have shown a workload's calls where static analysis cannot.
const runsForCalls = 4

// callsAreKnown tells whether enough is known of a workload's calls to refuse others: with thin evidence a refusal
// is a broken application, and what is watched is stopped where it is dangerous all the same.
func callsAreKnown(k Known) bool { return k.Prediction.Runs >= runsForCalls || k.Scan.Complete() }

// sensitiveShare is the part of first-seen calls of honest programs that are sensitive ones: few of them are, and programs
// make those early.
const sensitiveShare = 0.25

// breakage is the probability that a safeguard breaks the application's next run.
func breakage(s evidence.Safeguard, k Known) (float64, string) {
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
	case evidence.SafeguardSensitiveCalls:
		return unseen * sensitiveShare, fmt.Sprintf("a quarter of the probability %.2f of a call never seen", unseen)
	case evidence.SafeguardEnforce:
		return unseen, fmt.Sprintf("the probability of a call never seen, %.2f", unseen)
	case evidence.SafeguardReadonlyRoot:
		switch {
		case p.RootfsWrites == workload.Yes:
			return 0.95, "earlier runs wrote to the root filesystem"
		case p.RootfsWrites == workload.No:
			return rule, fmt.Sprintf("none of %s wrote to it", runs(p.Runs))
		}
		return 0.5, "nobody knows whether it writes"
	case evidence.SafeguardEgressListed:
		return 0.01, "few programs need an address that others have found to be bad"
	case evidence.SafeguardEgressUnseen:
		if p.Runs < runsForCalls {
			return 0.9, fmt.Sprintf("%s do not show whom it needs", runs(p.Runs))
		}
		return max(rule, 0.05), fmt.Sprintf("in %s it reached %d others", runs(p.Runs), len(p.Destinations))
	case evidence.SafeguardNetworkOff:
		switch {
		case len(p.Destinations) > 0:
			return 0.95, "earlier runs reached others"
		case k.Scan != nil && len(k.Scan.Ports) > 0:
			return 0.95, "it listens on ports"
		}
		return max(rule, 0.05), fmt.Sprintf("in %s it reached nobody", runs(p.Runs))
	case evidence.SafeguardNoNewPrivs:
		return 0.02, "few programs gain privileges on purpose"
	case evidence.SafeguardPIDs:
		if p.PIDs.Value > 512 {
			return 0.5, "it uses more than 512 processes"
		}
		return 0.01, "few programs need 1024 processes"
	case evidence.SafeguardWatch:
		return 0.001, "watched calls take longer"
	}
	return 0.005, "it only waits longer when the node is busy"
}
