package rewrite

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// capabilities claims every capability: kept when any set asks for it, because an
// ambient one is held without the bounding set. A process without sets gets none.
func (c *claims) capabilities(have *specs.LinuxCapabilities) {
	asked := named(have)
	for _, name := range policy.CapabilityNames() {
		v := policy.Tight
		if asked[name] {
			v = policy.Loose
		}
		c.add(policy.KeyCapabilities.Member(name), v)
	}
}

// named are the capabilities that are in any set.
func named(c *specs.LinuxCapabilities) map[string]bool {
	m := make(map[string]bool)
	if c == nil {
		return m
	}
	for _, set := range sets(c) {
		for _, name := range *set {
			m[name] = true
		}
	}
	return m
}

// sets are the capability sets of a process, the bounding set first.
func sets(c *specs.LinuxCapabilities) []*[]string {
	return []*[]string{&c.Bounding, &c.Effective, &c.Permitted, &c.Inheritable, &c.Ambient}
}

// capabilities removes dropped capabilities from every set and adds kept ones
// that no set names to the bounding, effective and permitted sets. One that some set
// names is left as it is: a process that does not hold what it might was asked for
// that way.
func capabilities(spec *specs.Spec, in Input) error {
	p := process(spec)
	has := named(p.Capabilities)
	members := in.Effective.Members(policy.KeyCapabilities)
	var add []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		known := policy.KnownCapability(name)
		switch {
		case !known:
			return fmt.Errorf("%.40q is not a capability of Linux: %w", name, errdefs.ErrInvalidArgument)
		case members[name] != policy.Tight && !has[name]:
			add = append(add, name)
		}
	}
	if p.Capabilities == nil && len(add) == 0 {
		return nil
	}
	c := clip(p.Capabilities, func(name string) bool {
		v, decided := members[name]
		return !decided || v != policy.Tight
	})
	c.Bounding = append(c.Bounding, add...)
	c.Effective = union(c.Effective, add)
	c.Permitted = union(c.Permitted, add)
	p.Capabilities = c
	return nil
}

// clip copies c with only the capabilities that allowed lets through.
func clip(c *specs.LinuxCapabilities, allowed func(string) bool) *specs.LinuxCapabilities {
	var out specs.LinuxCapabilities
	if c != nil {
		out = *c
	}
	for _, set := range sets(&out) {
		*set = slices.DeleteFunc(slices.Clone(*set), func(name string) bool { return !allowed(name) })
	}
	return &out
}

func union(set, add []string) []string {
	for _, name := range add {
		if !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	return set
}
