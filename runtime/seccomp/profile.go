package seccomp

import (
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultProfile returns the profile of a container that asks for none:
// containerd's default for the capabilities of spec. It does not change spec.
func DefaultProfile(spec *specs.Spec) *specs.LinuxSeccomp {
	// containerd's function dereferences both pointers without looking.
	process := specs.Process{Capabilities: &specs.LinuxCapabilities{}}
	if spec != nil && spec.Process != nil && spec.Process.Capabilities != nil {
		process.Capabilities = spec.Process.Capabilities
	}
	return seccomp.DefaultProfile(&specs.Spec{Process: &process})
}
