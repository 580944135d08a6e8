package main

import (
	"slices"

	"forefend.dev/forefend/cmd/forefend/foresight"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// judge turns what the sources said into risk and claims for this node.
func judge(cfg *config.Config) func(foresight.Known) foresight.Judgement {
	memory, table := nodeMemory(), safeguards(cfg)
	class := func(c seccomp.Class) func(string) bool {
		return func(name string) bool { return seccomp.Classify(name) == c }
	}
	sensitive := sensitiveCalls()
	return func(k foresight.Known) (j foresight.Judgement) {
		f := k.Request.Facts
		profile := cfg.Site.Profile(f.User, f.Group)
		amendments, _ := policy.ParseAnnotations(f.Annotations) // malformed ones are refused by the decision itself
		mode := policy.Merge(cfg.Site.Input(profile, amendments)).Mode()
		in := recommend.Input{
			Cores: processors(), NodeMemory: memory, Enforce: mode == policy.ModeEnforce,
			Unified:           cgroup.CurrentMode() == cgroup.V2,
			AllowReadonlyRoot: cfg.ReadonlyRoot, UnseenEgress: cfg.UnseenEgress, NameServers: f.NameServers,
			Airbag: cfg.Airbag.Enabled && k.Request.Airbag, RunsForMemory: cfg.Airbag.MinRuns, Sized: k.Scan.Sized(),
			Hot: class(seccomp.ClassHot), Sensitive: class(seccomp.ClassSensitive), Dangerous: class(seccomp.ClassDangerous),
		}
		j.Risk = foresight.Assess(k)
		j.Claims = recommend.Claims(k.Prediction, in)
		closed, why := recommend.Egress(k.Prediction, in, func(d string) bool {
			return slices.ContainsFunc(k.Past.Contacts, func(c evidence.Contact) bool { return c.Destination == d })
		})
		if j.Claims = append(j.Claims, closed...); why != "" {
			j.Notes = append(j.Notes, why)
		}
		if _, why := recommend.HardMemory(k.Prediction, in); why != "" && k.Prediction.Memory.Value > 0 {
			j.Notes = append(j.Notes, "the predicted memory limit is no hard one: "+why)
		}
		busy, notes := recommend.UnderLoad(k.Prediction, in, k.Load)
		j.Claims, j.Notes = append(j.Claims, busy...), append(j.Notes, notes...)
		known := recommend.Known{Prediction: k.Prediction, Scan: k.Scan, Risk: *j.Risk, NameServers: f.NameServers}
		trade := table.Weigh(known)
		j.Claims = append(j.Claims, recommend.Protect(trade, known, sensitive, in.Hot)...)
		if line := trade.String(); line != "" {
			j.Notes = append(j.Notes, line)
		}
		return j
	}
}

// safeguards is what the site does about risk, before a container runs and while it does.
func safeguards(cfg *config.Config) recommend.Table {
	s := cfg.Safeguards
	return recommend.Table{Levels: s.Levels, Costs: recommend.Costs{Incident: s.CostOfIncident, Breakage: s.CostOfBreakage}}
}

func sensitiveCalls() []string {
	return slices.DeleteFunc(seccomp.Names(), func(n string) bool { return seccomp.Classify(n) != seccomp.ClassSensitive })
}
