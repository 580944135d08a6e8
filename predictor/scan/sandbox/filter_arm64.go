package sandbox

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// perArch are calls that only this architecture has, or has under another name.
var perArch = []uint32{unix.SYS_FSTATAT}
