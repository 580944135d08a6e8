package foresight

import (
	"math"
	"slices"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/exploited"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Rate sets how likely the vulnerabilities of a scan are to be exploited: by what others know of them, else by the model
// alone where the scanner did not.
func Rate(s *evidence.Scan, known *exploited.Book) {
	for i := range s.Vulnerabilities {
		v := &s.Vulnerabilities[i]
		if v.Exploited == 0 {
			v.Exploited = risk.Exploitation(risk.Features{CVSS: v.Severity, Vector: v.Vector, CWE: v.CWE})
		}
		known.Rate(v)
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

// Reassess is the risk of a running container: what spoke against it when it was decided, and what it was found at since.
// What it is not found at again counts half after each calm; with calm 0 it counts for as long as the container runs.
func Reassess(d api.Decision, found evidence.Findings, now time.Time, calm time.Duration) *evidence.Risk {
	if d.Risk == nil {
		return nil
	}
	all := d.Findings.With(found)
	live := risk.Assess(risk.Input{Contacts: all.Contacts, Techniques: all.Techniques, Anomalies: all.Anomalies})
	factors := slices.Clone(d.Risk.Factors)
	for _, f := range live.Factors {
		f.Likelihood *= fading(lastSeen(found, f.Name), now, calm)
		i := slices.IndexFunc(factors, func(g evidence.Factor) bool { return g.Name == f.Name })
		switch {
		case i < 0:
			factors = append(factors, f)
		case f.Severity*f.Likelihood > factors[i].Severity*factors[i].Likelihood:
			factors[i] = f
		}
	}
	r := risk.Of(factors)
	return &r
}

// lastSeen is when a run was last caught at what a factor is about; zero: never.
func lastSeen(f evidence.Findings, factor string) (last time.Time) {
	see := func(t time.Time) {
		if t.After(last) {
			last = t
		}
	}
	switch factor {
	case evidence.FactorThreats:
		for _, c := range f.Contacts {
			see(c.Seen)
		}
	case evidence.FactorTechniques:
		for _, t := range f.Techniques {
			see(t.Seen)
		}
	case evidence.FactorAnomaly:
		for _, a := range f.Anomalies {
			see(a.Time)
		}
	}
	return last
}

// faded is the part of a likelihood below which nothing is left of it.
const faded = 0.05

// fading is what is left of a likelihood: half of it after each calm.
func fading(last, now time.Time, calm time.Duration) float64 {
	if calm <= 0 || last.IsZero() {
		return 1
	}
	w := math.Exp2(-max(0, now.Sub(last).Seconds()) / calm.Seconds())
	if w < faded {
		return 0
	}
	return w
}
