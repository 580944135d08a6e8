package risk

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// What the factors are worth. They are judgement, not measurement; docs/predictor/risk.md says what each stands for.
const (
	unreachable = 0.1 // how much a vulnerable package counts that the command does not load

	severityContact = 0.8 // something inside speaks to an address that malware uses
	severityRefused = 0.6 // it tried to
	severityNovelty = 0.2 // nobody knows yet what it does: a reason to watch, never alone a high risk
	severityProfile = 0.4
	severityLoad    = 0.2 // what goes wrong on a busy node hurts its neighbours
)

var severityAnomaly = map[string]float64{
	evidence.AnomalySyscalls: 0.6, evidence.AnomalyPrograms: 0.7, evidence.AnomalyConnections: 0.5, evidence.AnomalyUsage: 0.3,
}

// likelihoodSink is how often a command with such a sink does harm; without a limit most of them take what there is.
var likelihoodSink = map[string]float64{
	"miner": 0.9, "fork-bomb": 0.9, "fill-disk": 0.8, "allocate-all": 0.8, "oversized": 0.5, "endless-loop": 0.3,
}

func more(n int) string { return fmt.Sprintf("; %d more", n) }

func vulnerabilities(list []evidence.Vulnerability) evidence.Factor {
	var found []finding
	for _, v := range list {
		likelihood, how := v.Exploited, "reachable"
		if !v.Reachable {
			likelihood, how = likelihood*unreachable, "not known to be loaded"
		}
		severity := v.Severity / 10
		if severity == 0 {
			severity = 0.5 // not rated yet
		}
		found = append(found, finding{severity, likelihood,
			fmt.Sprintf("%s in %s %s, %s, exploited with probability %.2g%s", v.ID, v.Package, v.Version, how, v.Exploited, by(v))})
	}
	return join(evidence.FactorVulnerabilities, found)
}

// by names who speaks of a vulnerability's exploitation.
func by(v evidence.Vulnerability) string {
	if v.ExploitedBy == "" {
		return ""
	}
	return " by " + v.ExploitedBy
}

func contacts(list []evidence.Contact) evidence.Factor {
	var found []finding
	for _, c := range list {
		severity, how := severityContact, "reached"
		if c.Refused {
			severity, how = severityRefused, "tried"
		}
		found = append(found, finding{severity, c.Confidence, fmt.Sprintf("%s %s, listed as %s by %s", how, c.Destination, c.Indicator, c.Feed)})
	}
	return join(evidence.FactorThreats, found)
}

func techniques(list []evidence.Technique) evidence.Factor {
	var found []finding
	for _, t := range list {
		found = append(found, finding{t.Severity, t.Confidence, fmt.Sprintf("%s %s: %s", t.ID, t.Name, t.Why)})
	}
	return join(evidence.FactorTechniques, found)
}

func novelty(in Input) evidence.Factor {
	if !in.Known {
		return evidence.Factor{Name: evidence.FactorNovelty}
	}
	why := fmt.Sprintf("%d earlier runs; the next does something new with probability %.2f", in.Runs, unit(in.Unseen))
	if in.Runs <= 0 {
		why = "no earlier run"
	}
	first := 1 / float64(1+max(in.Runs, 0))
	return join(evidence.FactorNovelty, []finding{{severityNovelty, max(first, unit(in.Unseen)), why}})
}

// anomaly believes a score at its threshold half, one of twice that three quarters, and so on.
func anomaly(list []evidence.Anomaly) evidence.Factor {
	var found []finding
	for _, a := range list {
		if !(a.Score >= a.Threshold) {
			continue
		}
		likelihood := 0.5
		if a.Threshold > 0 {
			likelihood = 1 - 0.5*a.Threshold/a.Score
		}
		severity, ok := severityAnomaly[a.Kind]
		if !ok {
			severity = 0.3
		}
		found = append(found, finding{severity, likelihood, a.Kind + ": " + a.Why})
	}
	return join(evidence.FactorAnomaly, found)
}

// profile is a reason only below a stranger's trust: who has no history has done no harm.
func profile(list []evidence.Standing) evidence.Factor {
	var found []finding
	for _, s := range list {
		who := "user " + s.User
		if s.User == "" {
			who = "group " + s.Group
		}
		found = append(found, finding{severityProfile, 1 - 2*s.Trust, fmt.Sprintf("%s has trust %.2f: %s", who, s.Trust, s.Why)})
	}
	return join(evidence.FactorProfile, found)
}

func sinks(list []evidence.Sink) evidence.Factor {
	var found []finding
	for _, s := range list {
		likelihood, ok := likelihoodSink[s.Kind]
		if !ok {
			likelihood = 0.3
		}
		found = append(found, finding{s.Severity, likelihood, fmt.Sprintf("%s at %s: %s", s.Kind, s.Where, s.Why)})
	}
	return join(evidence.FactorSinks, found)
}

func load(l *evidence.Load) evidence.Factor {
	if l == nil || len(l.Tight) == 0 {
		return evidence.Factor{Name: evidence.FactorLoad}
	}
	short := slices.Sorted(maps.Keys(l.Tight))
	busiest := max(l.CPU, l.Memory, l.PressureCPU, l.PressureMemory, l.PressureIO)
	return join(evidence.FactorLoad, []finding{{severityLoad, busiest, "the node is short of " + strings.Join(short, ", ")}})
}
