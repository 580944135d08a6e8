package recommend

import (
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
)

// Costs say what is worse. Only their ratio matters.
type Costs struct {
	Incident float64 // of what the risk is about, once
	Breakage float64 // of an application that a safeguard breaks
}

// DefaultCosts: an intrusion costs ten times what a broken start costs.
func DefaultCosts() Costs { return Costs{Incident: 10, Breakage: 1} }

// Table is what a site does about risk: the same before a container runs and while it does.
type Table struct {
	Levels map[evidence.Level][]evidence.Safeguard
	Costs  Costs
}

// DefaultTable is the table of a site that has chosen nothing else.
func DefaultTable() Table { return Table{evidence.DefaultSafeguards(), DefaultCosts()} }

// Allowed is which safeguards are weighed against a risk: those of the level that its grounds alone come to.
func (t Table) Allowed(r evidence.Risk) []evidence.Safeguard { return t.Levels[Found(r).Level] }

// Weigh weighs what the table allows against the risk of k.
func (t Table) Weigh(k Known) Trade { return Weigh(k, t.Allowed(k.Risk), t.Costs) }

// grounds are the factors for which somebody has found something. What a container asks for, that it is new, and that the
// node is busy are no reasons to hold back what stock runc would allow: they only add to the risk of those that have one.
var grounds = []string{evidence.FactorVulnerabilities, evidence.FactorThreats, evidence.FactorTechniques, evidence.FactorAnomaly,
	evidence.FactorProfile, evidence.FactorSinks}

// Found is the part of a risk for which somebody has found something.
func Found(r evidence.Risk) evidence.Risk {
	return risk.Of(slices.DeleteFunc(slices.Clone(r.Factors), func(f evidence.Factor) bool { return !slices.Contains(grounds, f.Name) }))
}

// removes is the part of a factor that a safeguard takes away: judgement; those of the two about calls were chosen
// after looking at what they stop of recorded attacks (docs/predictor/risk.md), and are not computed from it.
var removes = map[evidence.Safeguard]map[string]float64{
	evidence.SafeguardWatch:      {evidence.FactorTechniques: 0.02, evidence.FactorAnomaly: 0.02},
	evidence.SafeguardPIDs:       {evidence.FactorSinks: 0.3},
	evidence.SafeguardShares:     {evidence.FactorSinks: 0.3, evidence.FactorLoad: 0.8},
	evidence.SafeguardNoNewPrivs: {evidence.FactorPrivileges: 0.2, evidence.FactorTechniques: 0.1},
	evidence.SafeguardSensitiveCalls: {evidence.FactorVulnerabilities: 0.5, evidence.FactorTechniques: 0.5, evidence.FactorNovelty: 0.5,
		evidence.FactorAnomaly: 0.5, evidence.FactorPrivileges: 0.2},
	evidence.SafeguardEnforce: {evidence.FactorVulnerabilities: 0.6, evidence.FactorTechniques: 0.6, evidence.FactorNovelty: 0.9,
		evidence.FactorAnomaly: 0.6, evidence.FactorPrivileges: 0.3},
	evidence.SafeguardReadonlyRoot: {evidence.FactorVulnerabilities: 0.2, evidence.FactorTechniques: 0.2, evidence.FactorSinks: 0.1},
	evidence.SafeguardEgressListed: {evidence.FactorThreats: 0.7},
	evidence.SafeguardEgressUnseen: {evidence.FactorThreats: 0.9, evidence.FactorTechniques: 0.3, evidence.FactorVulnerabilities: 0.3,
		evidence.FactorSinks: 0.4, evidence.FactorProfile: 0.2},
	evidence.SafeguardNetworkOff: {evidence.FactorThreats: 0.95, evidence.FactorTechniques: 0.4, evidence.FactorVulnerabilities: 0.5,
		evidence.FactorSinks: 0.5, evidence.FactorProfile: 0.3},
}
