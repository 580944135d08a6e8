package foresight

import (
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Rate sets how likely the vulnerabilities of a scan are to be exploited, where its data do not say.
func Rate(s *evidence.Scan) {
	for i := range s.Vulnerabilities {
		if v := &s.Vulnerabilities[i]; v.Exploited == 0 {
			v.Exploited = risk.Exploitation(risk.Features{CVSS: v.Severity, Vector: v.Vector, CWE: v.CWE})
		}
	}
}

// Assess is the risk of a container that is to be created.
func Assess(k Known) *evidence.Risk {
	in := risk.Input{
		Contacts: k.Past.Contacts, Techniques: k.Past.Techniques, Anomalies: k.Past.Anomalies,
		Privileges: privileges(k.Request), Load: k.Load,
		Known: true, Runs: k.Prediction.Runs, Unseen: k.Prediction.Unseen,
	}
	if k.Scan != nil {
		in.Vulnerabilities, in.Sinks = k.Scan.Vulnerabilities, k.Scan.Sinks
	}
	if k.Standing != nil && k.Standing.Runs > 0 {
		in.Standings = []evidence.Standing{*k.Standing}
	}
	r := risk.Assess(in)
	return &r
}

// privileges is what a request asks for beyond a plain container.
func privileges(req *api.AdmitRequest) risk.Privileges {
	f := req.Facts
	p := risk.Privileges{
		Privileged: f.Privileged, Unconfined: f.Unconfined != "", HostPID: f.HostPID, HostNetwork: f.HostNetwork, UserNS: f.UserNS, Root: f.UID == 0,
	}
	if process := req.Spec.Process; process != nil {
		p.NewPrivs = !process.NoNewPrivileges
		if process.Capabilities != nil {
			p.Capabilities = process.Capabilities.Bounding
		}
	}
	return p
}

// dynamic are the factors that what a running container does can change.
var dynamic = []string{evidence.FactorThreats, evidence.FactorTechniques, evidence.FactorAnomaly}

// Reassess is the risk of a running container: what spoke against it when it was decided, and what it and its like were
// found at.
func Reassess(d api.Decision, found evidence.Findings) *evidence.Risk {
	if d.Risk == nil {
		return nil
	}
	factors := slices.DeleteFunc(slices.Clone(d.Risk.Factors), func(f evidence.Factor) bool { return slices.Contains(dynamic, f.Name) })
	all := d.Findings.With(found)
	now := risk.Assess(risk.Input{Contacts: all.Contacts, Techniques: all.Techniques, Anomalies: all.Anomalies})
	r := risk.Of(append(factors, now.Factors...))
	return &r
}
