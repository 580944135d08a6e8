package agent

import (
	"fmt"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
)

// facts fills in what the process is, as the kernel says.
func facts(out *api.HandshakeResponse) {
	var u [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &u[0]); err == nil {
		held := uint64(u[1].Effective)<<32 | uint64(u[0].Effective)
		out.Capabilities = []string{}
		for bit := range 64 {
			if held&(1<<bit) == 0 {
				continue
			}
			name := fmt.Sprintf("CAP_%d", bit)
			if bit == unix.CAP_NET_ADMIN {
				name = "CAP_NET_ADMIN"
			}
			out.Capabilities = append(out.Capabilities, name)
		}
	}
	out.UID = unix.Geteuid()
	out.Dumpable = prctl(unix.PR_GET_DUMPABLE) != 0
	out.NoNewPrivs = prctl(unix.PR_GET_NO_NEW_PRIVS) == 1
	out.Seccomp = prctl(unix.PR_GET_SECCOMP) == 2
}

// prctl returns what a prctl without arguments answers, -1 on an error.
func prctl(option int) int {
	r, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
	if err != nil {
		return -1
	}
	return r
}
