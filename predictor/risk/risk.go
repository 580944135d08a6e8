package risk

import (
	"cmp"
	"math"
	"slices"

	"forefend.dev/forefend/predictor/evidence"
)

// Input is everything a risk depends on. What is not known is left zero and adds nothing.
type Input struct {
	Vulnerabilities []evidence.Vulnerability
	Sinks           []evidence.Sink
	Contacts        []evidence.Contact
	Techniques      []evidence.Technique
	Anomalies       []evidence.Anomaly
	Standings       []evidence.Standing // of the user and the group
	Privileges      Privileges
	Load            *evidence.Load

	// Runs of this workload before, and the probability that its next run does what none did; Known is false where nobody
	// asked the history.
	Known  bool
	Runs   int
	Unseen float64
}

// The lowest scores of the levels above low.
const (
	FromMedium   = 25
	FromHigh     = 50
	FromCritical = 75
)

// LevelOf returns the level of a score.
func LevelOf(score float64) evidence.Level {
	switch {
	case score >= FromCritical:
		return evidence.Critical
	case score >= FromHigh:
		return evidence.High
	case score >= FromMedium:
		return evidence.Medium
	}
	return evidence.Low
}

// Most is the highest product of severity and likelihood that a factor counts for: nothing is certain, and shares
// stay finite.
const Most = 0.999

// Assess returns the risk of a container.
//
// Each factor is severity × likelihood, both 0 to 1. Factors are taken for independent ways to come to harm, so the score is
// 100 × (1 − Π(1 − severity × likelihood)): it grows with each factor and never passes 100. A factor's share is its part
// of the sum of −ln(1 − severity × likelihood), the only measure under which independent factors add up. Within a factor,
// several findings are joined in the same way, see join.
func Assess(in Input) evidence.Risk {
	return Of([]evidence.Factor{
		vulnerabilities(in.Vulnerabilities), contacts(in.Contacts), techniques(in.Techniques), in.Privileges.factor(),
		novelty(in), anomaly(in.Anomalies), profile(in.Standings), sinks(in.Sinks), load(in.Load),
	})
}

// Of returns the risk that factors make together; those without severity or likelihood are left out. Shares are set here.
func Of(factors []evidence.Factor) evidence.Risk {
	var r evidence.Risk
	sum := 0.0
	for _, f := range factors {
		f.Severity, f.Likelihood = unit(f.Severity), unit(f.Likelihood)
		if w := weight(f); w > 0 {
			f.Share = w
			sum += w
			r.Factors = append(r.Factors, f)
		}
	}
	for i := range r.Factors {
		r.Factors[i].Share /= sum
	}
	slices.SortStableFunc(r.Factors, func(a, b evidence.Factor) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Name, b.Name))
	})
	r.Score = 100 * -math.Expm1(-sum)
	r.Level = LevelOf(r.Score)
	return r
}

// weight is what a factor adds to the exponent of the score.
func weight(f evidence.Factor) float64 { return -math.Log1p(-min(f.Severity*f.Likelihood, Most)) }

// unit brings x into 0 to 1; what is no number is 0.
func unit(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, 1)
}

// finding is one reason within a factor.
type finding struct {
	severity, likelihood float64
	why                  string
}

// join makes one factor of findings: its severity is the worst of theirs, its likelihood that any of them happens, those
// less severe counted for less. In formulas S = max s, L = 1 − Π(1 − l·s/S). The product S·L grows with every s and l.
// What is said is the reason of the worst, and how many there are.
func join(name string, findings []finding) evidence.Factor {
	f := evidence.Factor{Name: name}
	for i := range findings {
		findings[i].severity, findings[i].likelihood = unit(findings[i].severity), unit(findings[i].likelihood)
		if findings[i].likelihood > 0 {
			f.Severity = max(f.Severity, findings[i].severity)
		}
	}
	if f.Severity == 0 {
		return f
	}
	none, n := 1.0, 0
	var worst finding
	for _, x := range findings {
		if product := x.severity * x.likelihood; product > 0 {
			none *= 1 - x.likelihood*x.severity/f.Severity
			n++
			if product > worst.severity*worst.likelihood {
				worst = x
			}
		}
	}
	f.Likelihood = 1 - none
	f.Why = worst.why
	if n > 1 {
		f.Why += more(n - 1)
	}
	return f
}
