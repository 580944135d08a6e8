package doctor

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func kernel() Row {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Row{"kernel", Degraded, "uname: " + err.Error(), ""}
	}
	return Row{"kernel", OK, fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])), ""}
}

// capabilities returns this process's effective capabilities.
func capabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no CapEff")
}

func has(capability int) bool {
	set, err := capabilities()
	return err == nil && set&(1<<capability) != 0
}

func privileges() Row {
	r := Row{Feature: "privileges", State: OK, Found: "root with CAP_SYS_ADMIN"}
	if os.Geteuid() != 0 || !has(unix.CAP_SYS_ADMIN) {
		r.State, r.Found = Missing, fmt.Sprintf("uid %d without CAP_SYS_ADMIN", os.Geteuid())
		r.Fix = "run doctor as root, as containerd and the daemon run; the rows below tell what this user may do"
	}
	return r
}

func sysResource() Row {
	if has(unix.CAP_SYS_RESOURCE) {
		return Row{"CAP_SYS_RESOURCE", OK, "held", ""}
	}
	return Row{"CAP_SYS_RESOURCE", Degraded, "not held: no negative oom_score_adj, hard rlimits cannot be raised",
		"give it to containerd; without it CRI needs restrict_oom_score_adj = true"}
}

// landlockVersion asks for the interface version instead of making a ruleset.
const landlockVersion = 1

func landlock() Row {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockVersion)
	if errno != 0 {
		return Row{"Landlock", Degraded, "not offered by this kernel: " + errno.Error(),
			"boot with lsm=landlock,…; nothing in this version needs it"}
	}
	return Row{"Landlock", OK, fmt.Sprintf("interface version %d", abi), ""}
}
