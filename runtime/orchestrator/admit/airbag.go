package admit

import (
	"fmt"
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// How much of what is known makes growth anomalous (docs/decisions/0057).
const (
	leastTrust = 0.2 // of the profile: a stranger has 0.5
	sinkSure   = 0.5 // severity from which a memory sink counts
	sinkGrowth = 2   // times the predicted limit for a program with one
)

// withoutHardMemory drops predicted memory limits for a shim that could not raise them in time: there they are no limits.
func withoutHardMemory(claims []policy.Claim) []policy.Claim {
	return slices.DeleteFunc(slices.Clone(claims), func(c policy.Claim) bool { return c.Author == policy.Prediction && c.Key == policy.KeyMemory })
}

// airbag is the table by which the shim raises a predicted memory limit; nil: the limit, if there is one, is not predicted.
func (in Input) airbag(e policy.Effective, merged policy.Input) *api.Airbag {
	f, ok := e.Lookup(policy.KeyMemory)
	if !ok || f.Author != policy.Prediction || f.Value == policy.Unlimited {
		return nil
	}
	t := &api.Airbag{Predicted: int64(predictedMemory(f)), Reserve: in.Reserve}
	t.Ceiling, t.CeilingBy = in.ceiling(e, merged)
	t.Ceiling = max(t.Ceiling, t.Predicted)
	if s := in.Sealed; s != nil {
		t.Held, t.Growth, t.GrowthBy, t.Sized = s.Held, s.Growth, s.GrowthBy, s.Sized
		return t
	}
	t.Held = Anomalous(in.Risk, in.Standing)
	if in.Scan != nil {
		t.Sized = in.Scan.Sized().Program
		for _, s := range in.Scan.Sinks {
			if s.Resource == "memory" && s.Severity >= sinkSure && t.Growth == 0 {
				t.Growth, t.GrowthBy = sinkGrowth, fmt.Sprintf("static analysis found a sink of memory (%s, %s: %s)", s.Kind, s.Where, s.Why)
			}
		}
	}
	return t
}

// predictedMemory is the limit that was predicted at Create, whatever it was raised to since.
func predictedMemory(f policy.Field) policy.Value {
	least := f.Value
	for _, l := range f.Lost {
		if l.Author == policy.Prediction {
			least = min(least, l.Value)
		}
	}
	return least
}

// ceiling is where raising ends: at the limit that would hold without the prediction, at that of memory and swap together, or at what the
// node has.
func (in Input) ceiling(e policy.Effective, merged policy.Input) (most int64, by string) {
	most, by = int64(policy.Unlimited), "nothing"
	lower := func(n int64, why string) {
		if n > 0 && n < most {
			most, by = n, why
		}
	}
	if n := in.NodeMemory; n > 0 {
		lower(max(1, n-in.Reserve), fmt.Sprintf("the node has %s and keeps %s", size(n), size(in.Reserve)))
	}
	if n, ok := e.Limit(policy.KeyMemorySwap); ok {
		f, _ := e.Lookup(policy.KeyMemorySwap)
		lower(n, "memory and swap together, "+f.Source)
	}
	merged.Claims = slices.DeleteFunc(slices.Clone(merged.Claims), func(c policy.Claim) bool {
		// A site that prefers predictions lets them exceed requests, within its guardrails.
		overridden := c.Author == policy.Request && merged.Prefer[policy.Resources] == policy.PreferPrediction
		return c.Key != policy.KeyMode && (c.Key != policy.KeyMemory || c.Author == policy.Prediction || overridden)
	})
	without := policy.Merge(merged)
	if n, ok := without.Limit(policy.KeyMemory); ok {
		f, _ := without.Lookup(policy.KeyMemory)
		lower(n, f.Source)
	}
	return most, by
}

// Anomalous says why growth of a container's memory above what was predicted is to be held altogether, "" where it is not.
func Anomalous(r *evidence.Risk, s *evidence.Standing) string {
	if r != nil && (r.Level == evidence.High || r.Level == evidence.Critical) {
		why := fmt.Sprintf("the risk is %s (%.0f of 100)", r.Level, r.Score)
		if len(r.Factors) > 0 {
			why += ", most of it " + r.Factors[0].Name + ": " + r.Factors[0].Why
		}
		return why
	}
	if s != nil && s.Runs > 0 && s.Trust < leastTrust {
		return fmt.Sprintf("the profile of user %q and group %q has a trust of %.2f: %s", s.User, s.Group, s.Trust, s.Why)
	}
	return ""
}

func size(n int64) string { return policy.KeyMemory.Format(policy.Value(n)) }
