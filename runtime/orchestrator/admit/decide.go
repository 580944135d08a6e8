package admit

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/workload"
)

// Govern is the value of Input.Privileged under which privileged containers
// are treated like all others. Any other value leaves them as asked.
const Govern = "govern"

// Input is all a decision depends on.
type Input struct {
	Request      api.AdmitRequest
	Site         policy.Site
	Privileged   string // what the site does with privileged containers
	Predicted    []policy.Claim
	Prediction   workload.Prediction
	Scan         *evidence.Scan // nil: no static analysis; never written to
	Risk         *evidence.Risk // nil: nobody worked it out
	Load         *evidence.Load
	Standing     *evidence.Standing
	Past         evidence.Findings // of earlier runs of the same code
	Operator     []policy.Claim
	Live         []policy.Claim // what the running container has asked for since its creation
	Sources      []api.Source
	Notes        []string
	Availability api.Availability
	Unified      bool        // the node uses cgroup v2
	NodeMemory   int64       // bytes; 0: not known
	Sealed       *api.Airbag // of the workload's last policy, for a shim that decides without a daemon
	Reserve      int64       // bytes of memory that the node keeps when predicted limits are raised
	Now          time.Time   // zero: the caller's clock is read
	// Compiler remembers compiled profiles from one decision to the next; nil
	// remembers nothing. With one, decisions share their Seccomp's rules and Table.
	Compiler *Compiler

	// earlier are the request's claims to the decision in force: what the spec repeats is still theirs. See Adjust.
	earlier []policy.Claim
	// only are the keys that are decided, with those on which they depend; nil: all. See Adjust.
	only map[policy.Key]bool
}

// Decide merges everything that was asked, predicted and ruled. The error is
// ErrInvalidArgument for a malformed annotation; no half policy is returned.
func Decide(in Input) (api.Decision, error) {
	d, plan, err := merge(in)
	if err != nil {
		return api.Decision{}, err
	}
	return d, plan.govern(&d, in)
}

// govern compiles what was decided of the system calls, if they are governed at all.
func (p callPlan) govern(d *api.Decision, in Input) error {
	if p.profile == nil {
		p.onlyDecided(d.Effective)
	}
	d.Notes = append(d.Notes, p.notes...)
	if p.profile == nil {
		return nil
	}
	return p.compile(d, in)
}

// merge decides all but what becomes of the system calls in the kernel.
func merge(in Input) (d api.Decision, plan callPlan, err error) {
	facts := in.Request.Facts
	if in.Now.IsZero() {
		in.Now = time.Now()
	}
	amendments, err := policy.ParseAnnotations(facts.Annotations)
	if err != nil {
		return d, plan, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !in.Request.Airbag {
		in.Predicted = withoutHardMemory(in.Predicted)
	}
	d = api.Decision{
		Version: api.Version, Time: in.Now, Facts: facts, Availability: in.Availability,
		Prediction: in.Prediction, Sources: in.Sources, Notes: slices.Clone(in.Notes), Revision: 1,
		Risk: in.Risk, Scan: Summary(in.Scan), Load: in.Load, Standing: in.Standing, Findings: in.Past,
	}
	profile := in.Site.Profile(facts.User, facts.Group)
	d.Profile = profile.Name
	label(&d, profile)

	spec := &in.Request.Spec
	claims := slices.Concat(builtin(facts), attributed(rewrite.Claims(spec, in.Unified), in.earlier), unconfinedBy(facts), amendments, in.Live, in.Predicted, in.Operator)
	asAsked := facts.Privileged && in.Privileged != Govern
	d.AsAsked = asAsked
	if asAsked {
		d.Notes = append(d.Notes, "privileged: system calls, capabilities and file system are as asked (the site's `privileged` is not \"govern\")")
	}
	mode, unconfined := preview(in.Site, profile, claims)
	if unconfined && mode == policy.ModeEnforce && facts.Unconfined == workload.ThroughCRI {
		facts.Unconfined = "" // who wants surprises denied wants a profile
		claims = append(builtin(facts), claims[len(builtin(facts)):]...)
		mode, unconfined = preview(in.Site, profile, claims)
	}
	if in.only == nil || slices.ContainsFunc(slices.Collect(maps.Keys(in.only)), aboutCalls) {
		plan = newCallPlan(in, mode, unconfined || asAsked, ruledBy(slices.Concat(in.Site.Guards, profile.Guards)))
	}
	input := in.Site.Input(profile, claims, plan.claims)
	if asAsked {
		input.Claims = onlyResources(input.Claims)
	}
	if unconfined && plan.profile == nil {
		input.Claims = withoutPredictedCalls(input.Claims)
	}
	if in.only != nil {
		input.Claims = slices.DeleteFunc(input.Claims, func(c policy.Claim) bool { return !in.only[c.Key] })
	}
	input.Guards = append(input.Guards, plan.guards...)
	d.Effective = policy.Merge(input)
	d.Airbag = in.airbag(d.Effective, input)
	return d, plan, nil
}

// label believes what the container's annotation says of its data where the profile lets it loosen egress.
func label(d *api.Decision, profile policy.Profile) {
	class := policy.DataClass(d.Facts.Annotations)
	if class == "" {
		return
	}
	if slices.Contains(profile.Grants, policy.KeyEgress) {
		d.Data = class
		return
	}
	d.Notes = append(d.Notes, fmt.Sprintf("%s = %s can only raise what egress rules demand: profile %q grants no loosening of egress", policy.AnnotationData, class, profile.Name))
}

// preview merges only what decides how the system calls are to be planned.
func preview(site policy.Site, profile policy.Profile, claims []policy.Claim) (mode policy.Value, unconfined bool) {
	var deciding []policy.Claim
	for _, c := range claims {
		if c.Key == policy.KeyMode || c.Key == policy.KeySeccomp {
			deciding = append(deciding, c)
		}
	}
	e := policy.Merge(site.Input(profile, deciding))
	return e.Mode(), e.Value(policy.KeySeccomp, policy.Tight) != policy.Tight
}

// builtin are Forefend's own defaults; that of the mode is part of every
// configuration. A site's defaults of the same key replace them.
func builtin(facts workload.Facts) []policy.Claim {
	origin := func(why string) policy.Origin {
		return policy.Origin{Author: policy.Default, Source: "forefend", Reason: why}
	}
	profile := policy.Claim{Key: policy.KeySeccomp, Value: policy.Tight, Origin: origin("every container has a system call profile")}
	if facts.Unconfined == workload.ThroughCRI { // docs/decisions/0016
		profile.Value, profile.Origin = policy.Loose, origin("asked for through CRI without a profile, which there means unconfined; "+
			"seccomp = \"profile\" among the site's defaults, or as annotation, changes that")
	}
	return []policy.Claim{
		profile,
		{Key: policy.KeySealed, Value: policy.Loose, Origin: origin("history does not yet say what this workload needs")},
	}
}

// unconfinedBy is the request for no system call profile that a client's own
// option makes; like a capability in the spec it needs no grant.
func unconfinedBy(facts workload.Facts) []policy.Claim {
	if facts.Unconfined == "" || facts.Unconfined == workload.ThroughCRI {
		return nil
	}
	return []policy.Claim{{Key: policy.KeySeccomp, Value: policy.Loose, Origin: policy.Origin{
		Author: policy.Request, Source: rewrite.SourceSpec, Reason: facts.Unconfined + " was told to run it unconfined",
	}}}
}

// onlyResources drops what nobody asked of a privileged container.
func onlyResources(claims []policy.Claim) []policy.Claim {
	return slices.DeleteFunc(claims, func(c policy.Claim) bool {
		switch c.Key.Dimension() {
		case policy.Resources:
			return false
		case policy.Control:
			return c.Key == policy.KeySealed
		}
		return c.Author < policy.Request
	})
}

// withoutPredictedCalls drops what history says of single calls: it refines a
// profile, and an unconfined container has none.
func withoutPredictedCalls(claims []policy.Claim) []policy.Claim {
	return slices.DeleteFunc(claims, func(c policy.Claim) bool {
		return c.Author == policy.Prediction && c.Key.Dimension() == policy.Syscalls
	})
}
