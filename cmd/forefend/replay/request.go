package replay

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/seccomp"
)

// nowhere is a path on which nobody listens.
const nowhere = "/nonexistent/replay"

// request is what was asked for, as far as the decision about it says. The system call profile that was requested is not
// kept: the default one that engines request is taken for it.
func request(d *api.Decision, unified bool) api.AdmitRequest {
	asked := slices.DeleteFunc(d.Effective.ClaimsBy(policy.Request), func(c policy.Claim) bool {
		return c.Amends || strings.HasPrefix(c.Source, "annotation ") // they are parsed again
	})
	e := policy.Merge(policy.Input{Claims: asked})
	spec := specs.Spec{
		Process: &specs.Process{
			Args: d.Facts.Args, Capabilities: capabilities(e),
			NoNewPrivileges: e.Value(policy.KeyNoNewPrivileges, policy.Loose) == policy.Tight,
		},
		Root:  &specs.Root{Readonly: e.Value(policy.KeyReadonlyRoot, policy.Loose) == policy.Tight},
		Linux: &specs.Linux{Resources: rewrite.Resources(&specs.LinuxResources{}, e, unified)},
	}
	for name, v := range e.Members(policy.KeyMaskedPaths) {
		if v == policy.Tight {
			spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, name)
		}
	}
	for name, v := range e.Members(policy.KeyReadonlyPaths) {
		if v == policy.Tight {
			spec.Linux.ReadonlyPaths = append(spec.Linux.ReadonlyPaths, name)
		}
	}
	slices.Sort(spec.Linux.MaskedPaths)
	slices.Sort(spec.Linux.ReadonlyPaths)
	if d.Facts.Unconfined == "" && !d.Facts.Privileged {
		spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	}
	return api.AdmitRequest{Version: api.Version, Facts: d.Facts, Spec: spec, ListenerPath: nowhere, Kin: true, Own: true, DryRun: true}
}

func capabilities(e policy.Effective) *specs.LinuxCapabilities {
	var held []string
	for name, v := range e.Members(policy.KeyCapabilities) {
		if v != policy.Tight {
			held = append(held, name)
		}
	}
	slices.Sort(held)
	return &specs.LinuxCapabilities{Bounding: held, Effective: held, Permitted: held}
}

// scanOf is the part of a scan that a decision keeps.
func scanOf(s *api.Scan) *evidence.Scan {
	if s == nil {
		return nil
	}
	return &evidence.Scan{
		Entry: s.Entry, Syscalls: s.Syscalls, Unknown: s.Unknown, Capabilities: s.Capabilities, Ports: s.Ports, Memory: s.Memory, Sinks: s.Sinks,
		Vulnerabilities: s.Vulnerabilities,
	}
}
