package ptrace

import "golang.org/x/sys/unix"

// mkdirNumber is the call that a C library may use in the place of mkdirat.
const mkdirNumber = unix.SYS_MKDIR
