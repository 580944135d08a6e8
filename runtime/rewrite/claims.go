package rewrite

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// Sources of the claims this package makes, as explain prints them.
const (
	SourceSpec   = "spec"
	SourceUpdate = "update"
)

// Claims lists what a spec asks for. What it does not mention (no memory limit,
// no_new_privileges absent, a path not masked) it leaves open, and a limit of -1
// asks for none. Capabilities are never open: one that is in no set
// is claimed dropped. About system calls and the network a spec says nothing here.
//
// unified says that the machine's controllers are those of cgroup v2, where a
// reservation is a protection and memory.high the soft limit.
func Claims(spec *specs.Spec, unified bool) []policy.Claim {
	var c claims
	c.source = SourceSpec
	if spec.Linux != nil {
		c.resources(spec.Linux.Resources, unified)
	}
	p := process(spec)
	c.rlimits(p.Rlimits)
	c.oomScore(p)
	c.capabilities(p.Capabilities)
	if p.NoNewPrivileges {
		c.add(policy.KeyNoNewPrivileges, policy.Tight)
	}
	if spec.Root != nil && spec.Root.Readonly {
		c.add(policy.KeyReadonlyRoot, policy.Tight)
	}
	if spec.Linux != nil {
		c.members(policy.KeyMaskedPaths, spec.Linux.MaskedPaths)
		c.members(policy.KeyReadonlyPaths, spec.Linux.ReadonlyPaths)
		if spec.Linux.Resources != nil {
			c.devices(spec.Linux.Resources.Devices)
		}
	}
	return c.list
}

// ResourceClaims lists what the update of a running container asks for. Give it
// the update laid over the container's resources (Overlay): the update alone may
// name a quota whose period only the container knows.
func ResourceClaims(r *specs.LinuxResources, unified bool) []policy.Claim {
	var c claims
	c.source = SourceUpdate
	c.resources(r, unified)
	return c.list
}

// claims collects the claims of one source.
type claims struct {
	source string
	list   []policy.Claim
}

func (c *claims) add(k policy.Key, v policy.Value) {
	c.list = append(c.list, policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Request, Source: c.source}})
}

// members claims each name of a list tight, once.
func (c *claims) members(family policy.Key, names []string) {
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if !seen[name] && name != "" {
			seen[name] = true
			c.add(family.Member(name), policy.Tight)
		}
	}
}
