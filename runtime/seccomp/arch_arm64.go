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
