package admit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// Readjust is Adjust for resources asked for a running container by a client of containerd; r is all it asks for, the
// update laid over what it asked before. It needs nothing but the decision in force, so that a shim can do without the
// daemon, and a daemon without knowing what an older shim's container was requested with. What the prediction, an
// operator, the annotations and the container itself had to say about that decision they say again.
func Readjust(before api.Decision, r *specs.LinuxResources, site policy.Site, unified bool) (api.Decision, error) {
	amendments, err := policy.ParseAnnotations(before.Facts.Annotations)
	if err != nil {
		return api.Decision{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	known := recall(Input{}, before)
	claims := slices.Concat(builtin(before.Facts), updated(before.Effective.ClaimsBy(policy.Request), r, unified), amendments,
		known.Live, known.Predicted, known.Operator)
	in := site.Input(site.Profile(before.Facts.User, before.Facts.Group), claims)
	in.Claims = slices.DeleteFunc(in.Claims, func(c policy.Claim) bool {
		return c.Key.Dimension() != policy.Resources && c.Key != policy.KeyMode
	})
	after := before
	after.Effective = before.Effective.Replace(policy.Resources, policy.Merge(in))
	if f, _ := after.Effective.Lookup(policy.KeyMemory); f.Author != policy.Prediction {
		after.Airbag = nil // the limit is somebody's now
	}
	after.Revision++
	return changed(before, after, api.Change{Time: time.Now(), Author: policy.Request, Source: rewrite.SourceUpdate}), nil
}

// updated are the spec's claims of resources after an update. What the update repeats is still the older request's.
func updated(standing []policy.Claim, r *specs.LinuxResources, unified bool) []policy.Claim {
	claims := attributed(rewrite.ResourceClaims(r, unified), standing)
	for _, c := range standing {
		if amended(c) {
			continue
		}
		switch family, member := c.Key.Family(); {
		case family == policy.KeyIORead, family == policy.KeyIOWrite: // of r, like other limits
		case member != "", c.Key == policy.KeyOOMScore: // no update changes them
			claims = append(claims, c)
		}
	}
	return claims
}

// amended reports whether a request's claim is no part of its spec.
func amended(c policy.Claim) bool {
	return c.Amends || strings.HasPrefix(c.Source, policy.SourceAnnotation)
}

// attributed gives each claim of a spec the source of the earlier one that it repeats.
func attributed(claims, earlier []policy.Claim) []policy.Claim {
	said := make(map[policy.Key]policy.Claim, len(earlier))
	for _, c := range earlier {
		if !amended(c) {
			said[c.Key] = c
		}
	}
	for i, c := range claims {
		if old, ok := said[c.Key]; ok && old.Value == c.Value {
			claims[i].Source = old.Source
		}
	}
	return claims
}

// changed notes a change in the decision that came of it. ch has the author and the time.
func changed(before, after api.Decision, ch api.Change) api.Decision {
	ch.Revision = after.Revision
	ch.Changed = before.Effective.Diff(after.Effective, func(policy.Key) bool { return true })
	after.Changes = remember(before.Changes, ch)
	return after
}
