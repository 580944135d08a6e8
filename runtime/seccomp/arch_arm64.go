package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAuditArch  = unix.AUDIT_ARCH_AARCH64
	foreignAuditArch = unix.AUDIT_ARCH_ARM
	nativeArch       = specs.ArchAARCH64
	foreignArch      = specs.ArchARM
)

// The part of containerd's default profile that is this architecture's.
var (
	defaultArchitectures = []specs.Arch{specs.ArchARM, specs.ArchAARCH64}
	archCalls            = []string{"arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"}
)
