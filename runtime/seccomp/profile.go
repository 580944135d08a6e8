package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errno38 is what the default profile answers where a libc falls back to an older call.
var errno38 = uint(unix.ENOSYS)

// DefaultProfile returns the profile of a container that asks for none: containerd's default for the capabilities of spec. It is the
// caller's.
//
// It is made from a copy of containerd's rules (gen_default.go), because the package that has them brings in the unpacking of images,
// and every start of a shim would pay for that.
func DefaultProfile(spec *specs.Spec) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: slices.Clone(defaultArchitectures)}
	p.Syscalls = slices.Concat(defaultRules, []specs.LinuxSyscall{{Names: archCalls, Action: specs.ActAllow}})
	admin := false
	if spec != nil && spec.Process != nil && spec.Process.Capabilities != nil {
		for _, held := range spec.Process.Capabilities.Bounding {
			admin = admin || held == "CAP_SYS_ADMIN"
			for _, c := range byCapability {
				if c.capability == held {
					p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: c.names, Action: specs.ActAllow})
				}
			}
		}
	}
	if !admin {
		p.Syscalls = append(p.Syscalls, withoutAdmin...)
	}
	for i := range p.Syscalls {
		r := &p.Syscalls[i]
		r.Names, r.Args = slices.Clone(r.Names), slices.Clone(r.Args)
		if r.ErrnoRet != nil {
			own := *r.ErrnoRet
			r.ErrnoRet = &own
		}
	}
	return p
}
