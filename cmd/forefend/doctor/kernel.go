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
		return degraded("kernel", "uname: "+err.Error(), "doctor cannot name the kernel", "look for a filter that denies uname")
	}
	return ok("kernel", fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])))
}

// capabilities returns this thread's effective capabilities.
func capabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/thread-self/status has no CapEff")
}

func has(capability int) bool {
	set, err := capabilities()
	return err == nil && set&(1<<capability) != 0
}

func privileges() Row {
	if os.Geteuid() == 0 && has(unix.CAP_SYS_ADMIN) {
		return ok("privileges", "root with CAP_SYS_ADMIN")
	}
	return missing("privileges", fmt.Sprintf("uid %d without CAP_SYS_ADMIN", os.Geteuid()), "containers cannot be created, and this report is of little use",
		"run doctor as root, as containerd and the daemon run; the rows below tell what this user may do")
}

func sysResource() Row {
	if has(unix.CAP_SYS_RESOURCE) {
		return ok("CAP_SYS_RESOURCE", "held")
	}
	return degraded("CAP_SYS_RESOURCE", "not held", "no negative oom_score_adj, hard rlimits cannot be raised, the daemon is not protected from the OOM killer",
		"give it to containerd; without it CRI needs restrict_oom_score_adj = true")
}

// landlockVersion asks for the interface version instead of making a ruleset.
const landlockVersion = 1

func landlock() Row {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockVersion)
	if errno != 0 {
		return degraded("Landlock", "not offered by this kernel: "+errno.Error(), "nothing in this version; scans of images will lose a wall",
			"boot with lsm=landlock,…")
	}
	return ok("Landlock", fmt.Sprintf("interface version %d", abi))
}
