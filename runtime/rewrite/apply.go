package rewrite

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// Input is what Apply writes into a spec.
type Input struct {
	Effective policy.Effective
	// Seccomp is the compiled profile of the policy's system calls. Nil leaves the
	// spec's own. The spec shares its memory afterwards.
	Seccomp *specs.LinuxSeccomp
	// Privileged marks a privileged container that the site leaves as asked:
	// Apply does nothing.
	Privileged bool
	// Gated says that a gate in the container's cgroup will switch its network off, and may switch it on again: the spec's network
	// stays as it is.
	Gated bool
	// Unified says that the machine's controllers are those of cgroup v2.
	Unified bool
}

// step writes the keys it names into a spec.
type step struct {
	name  string
	keys  []policy.Key
	apply func(*specs.Spec, Input) error
}

// steps is the order in which a policy is applied. No step depends on another;
// the order is that of what a reader of the error most wants to hear first.
var steps = []step{
	// Can fail on what the container is (host network), so before all others.
	{"network", []policy.Key{policy.KeyNetwork}, network},
	// Limits of the container's cgroup: memory, swap, soft limit, CPU, pids.
	{"resources", []policy.Key{policy.KeyMemory, policy.KeyMemorySoft, policy.KeyMemorySwap,
		policy.KeyCPUs, policy.KeyCPUShares, policy.KeyPIDs}, resources},
	// Rates of disks, of the same cgroup.
	{"io", []policy.Key{policy.KeyIORead, policy.KeyIOWrite, policy.KeyIOWeight}, io},
	// Limits of each process, which runc sets before the workload runs.
	{"rlimits", []policy.Key{policy.KeyRlimits}, rlimits},
	// Who is killed first when the node is out of memory.
	{"oom_score", []policy.Key{policy.KeyOOMScore}, oomScore},
	// The compiled profile; whether there is one at all was decided with it.
	{"seccomp", []policy.Key{policy.KeySeccomp, policy.KeySyscalls}, seccomp},
	// What is dropped leaves every set, the bounding set included.
	{"capabilities", []policy.Key{policy.KeyCapabilities}, capabilities},
	{"no_new_privileges", []policy.Key{policy.KeyNoNewPrivileges}, noNewPrivileges},
	// What of the file system is hidden or cannot be written.
	{"masked_paths", []policy.Key{policy.KeyMaskedPaths}, maskedPaths},
	{"readonly_paths", []policy.Key{policy.KeyReadonlyPaths}, readonlyPaths},
	{"readonly_root", []policy.Key{policy.KeyReadonlyRoot}, readonlyRoot},
	// Appended to the list of the spec: later rules hold.
	{"devices", []policy.Key{policy.KeyDevices}, devices},
}

// Apply writes a policy into spec. After an error the spec is half rewritten
// and must not be used. Errors are errdefs kinds: ErrInvalidArgument for a
// policy that names what does not exist, ErrFailedPrecondition (*NetworkError
// among them) for one this container cannot be held to.
func Apply(spec *specs.Spec, in Input) error {
	if in.Privileged {
		return nil
	}
	for _, s := range steps {
		if err := s.apply(spec, in); err != nil {
			return fmt.Errorf("apply %s: %w", s.name, err)
		}
	}
	return nil
}

// linux returns the spec's Linux section, made if there is none.
func linux(spec *specs.Spec) *specs.Linux {
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	return spec.Linux
}

// process returns the spec's process. runc refuses a spec without one, so what
// is written into the stand-in never runs.
func process(spec *specs.Spec) *specs.Process {
	if spec.Process == nil {
		return &specs.Process{}
	}
	return spec.Process
}
