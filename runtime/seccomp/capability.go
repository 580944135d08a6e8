package seccomp

import (
	"slices"
	"strings"
	"sync"
)

// speakers lists, per capability, the dangerous calls that holding it makes
// plausible. It follows the kernel's own checks, and where the kernel has none
// (io_uring, user namespaces) names none.
var speakers = []struct{ capability, calls string }{
	{"CAP_SYS_PTRACE", "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise userfaultfd"},
	{"CAP_SYS_ADMIN", "mount umount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick pivot_root unshare setns sethostname setdomainname bpf perf_event_open fanotify_init quotactl quotactl_fd swapon swapoff lookup_dcookie syslog clone3 listns"},
	{"CAP_SYS_MODULE", "init_module finit_module delete_module create_module get_kernel_syms query_module"},
	{"CAP_SYS_BOOT", "reboot kexec_load kexec_file_load"},
	{"CAP_SYS_TIME", "settimeofday clock_settime clock_settime64 stime"},
	{"CAP_SYS_RAWIO", "iopl ioperm pciconfig_read pciconfig_write pciconfig_iobase"},
	{"CAP_SYS_PACCT", "acct"},
	{"CAP_SYS_TTY_CONFIG", "vhangup"},
	{"CAP_SYS_NICE", "migrate_pages move_pages process_madvise"},
	{"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
	{"CAP_BPF", "bpf"},
	{"CAP_PERFMON", "perf_event_open"},
	{"CAP_SYSLOG", "syslog"},
}

var capabilitiesByCall = sync.OnceValue(func() map[string][]string {
	m := make(map[string][]string)
	for _, s := range speakers {
		for call := range strings.FieldsSeq(s.calls) {
			m[call] = append(m[call], s.capability)
		}
	}
	return m
})

// Capabilities returns the capabilities that speak for the named dangerous call:
// any one of them is a reason to expect it. Nil when there is none.
func Capabilities(name string) []string { return slices.Clone(capabilitiesByCall()[name]) }
