package rewrite

import (
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// NetworkError says why a container's network cannot be switched off by its
// spec. It is errdefs.ErrFailedPrecondition.
type NetworkError struct {
	Why string
}

// Error says what would help, too.
func (e *NetworkError) Error() string {
	return "network = off cannot be enforced: " + e.Why
}

// Unwrap makes it a failed precondition.
func (*NetworkError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Annotations of other projects that say to whom the network belongs.
const (
	criSandbox   = "io.kubernetes.cri.sandbox-id"
	crioSandbox  = "io.kubernetes.cri-o.SandboxID"
	nerdctlNets  = "nerdctl/networks"
	nerdctlNoNet = `["none"]`
)

// network is for nodes without gates: it gives a container whose network is off a network namespace of its
// own, in which there is only loopback. That holds as long as nobody outside puts
// an interface into it: whoever is known to do so is refused, not believed. The
// opposite, a network for a container that asked for none, is nothing a spec can give.
func network(spec *specs.Spec, in Input) error {
	if f, ok := in.Effective.Lookup(policy.KeyNetwork); !ok || f.Value != policy.Tight {
		return nil
	}
	ns := namespace(spec, specs.NetworkNamespace)
	switch {
	case ns == nil:
		return &NetworkError{"the container uses the host's network"}
	case in.Gated:
		return nil
	case spec.Annotations[nerdctlNets] != "" && spec.Annotations[nerdctlNets] != nerdctlNoNet:
		return &NetworkError{"nerdctl connects the container after its creation: use --network none"}
	case ns.Path == "":
	case spec.Annotations[criSandbox] != "" || spec.Annotations[crioSandbox] != "":
		return &NetworkError{"the network is the whole pod's"}
	case strings.HasPrefix(ns.Path, "/proc/"):
		return &NetworkError{"the network is shared with another process's"}
	}
	ns.Path = ""
	spec.Linux.NetDevices = nil
	return nil
}
