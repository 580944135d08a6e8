package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// x32 has no constants here on purpose: it is always refused (see keepArchitectures).
const (
	nativeAuditArch  = unix.AUDIT_ARCH_X86_64
	foreignAuditArch = unix.AUDIT_ARCH_I386
	nativeArch       = specs.ArchX86_64
	foreignArch      = specs.ArchX86
)

// The part of containerd's default profile that is this architecture's.
var (
	defaultArchitectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	archCalls            = []string{"arch_prctl", "modify_ldt"}
)
