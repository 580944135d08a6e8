package main

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one dangerous call. It is made so that it does no harm where it is allowed: its arguments are invalid
// beyond the point where a filter or a capability check has answered, or what it makes goes away with the caller.
type attempt struct {
	name string
	call func() (uintptr, syscall.Errno)
}

// attempts are tried in this order.
var attempts = []attempt{
	{"unshare", raw(unix.SYS_UNSHARE, unix.CLONE_NEWNS)},
	{"unshare_user", raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
	{"clone_newuser", cloneNewUser},
	{"clone3", raw(unix.SYS_CLONE3, 0, 0)},
	{"setns", setns},
	{"mount", mount},
	{"umount2", raw(unix.SYS_UMOUNT2, text("/proc"), unix.MNT_EXPIRE|unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE)},
	{"pivot_root", raw(unix.SYS_PIVOT_ROOT, text("/nonexistent"), text("/nonexistent"))},
	{"chroot", raw(unix.SYS_CHROOT, text("/"))},
	{"open_tree", raw(unix.SYS_OPEN_TREE, fd(-100), text("/"), 1 /* OPEN_TREE_CLONE */)},
	{"fsopen", raw(unix.SYS_FSOPEN, text("tmpfs"), 0)},
	{"move_mount", raw(unix.SYS_MOVE_MOUNT, fd(-1), text(""), fd(-1), text(""), 4)},
	{"ptrace", raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME)},
	{"process_vm_readv", processRead},
	{"pidfd_getfd", raw(unix.SYS_PIDFD_GETFD, fd(-1), 0, 0)},
	{"kcmp", raw(unix.SYS_KCMP, 1, 1, 0, 0, 0)},
	{"bpf", raw(unix.SYS_BPF, 0 /* BPF_MAP_CREATE */, 0, 0)},
	{"perf_event_open", perfEvent},
	{"keyctl", raw(unix.SYS_KEYCTL, 0 /* KEYCTL_GET_KEYRING_ID */, fd(-3) /* session keyring */, 0)},
	{"add_key", addKey},
	{"request_key", raw(unix.SYS_REQUEST_KEY, text("user"), text("forefend-probe"), 0, 0)},
	{"io_uring_setup", ioUring},
	{"userfaultfd", raw(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)},
	{"name_to_handle_at", raw(unix.SYS_NAME_TO_HANDLE_AT, fd(-100), text("/"), 0, 0, 0)},
	{"open_by_handle_at", openByHandle},
	{"init_module", raw(unix.SYS_INIT_MODULE, 0, 0, text(""))},
	{"finit_module", raw(unix.SYS_FINIT_MODULE, fd(-1), text(""), 0)},
	{"delete_module", raw(unix.SYS_DELETE_MODULE, text("forefend_no_such"), unix.O_NONBLOCK)},
	{"kexec_load", raw(unix.SYS_KEXEC_LOAD, 0, 1<<20, 0, 0)}, // too many segments
	{"reboot", raw(unix.SYS_REBOOT, 0, 0, 0)},                // wrong magic numbers
	{"swapon", raw(unix.SYS_SWAPON, text("/nonexistent"), 0)},
	{"acct", raw(unix.SYS_ACCT, text("/nonexistent"))},
	{"quotactl", raw(unix.SYS_QUOTACTL, fd(-1), 0, 0, 0)},
	{"clock_settime", raw(unix.SYS_CLOCK_SETTIME, 1 /* CLOCK_MONOTONIC cannot be set */, 0)},
	{"sethostname", raw(unix.SYS_SETHOSTNAME, 0, fd(-1))},
	{"personality", raw(unix.SYS_PERSONALITY, 0x0040000 /* ADDR_NO_RANDOMIZE */)},
	{"syslog", raw(unix.SYS_SYSLOG, 10 /* SYSLOG_ACTION_SIZE_BUFFER */, 0, 0)},
	{"fanotify_init", raw(unix.SYS_FANOTIFY_INIT, 4 /* FAN_CLASS_CONTENT */, 0)},
	{"setuid", raw(unix.SYS_SETUID, 0)},
	{"setgid", raw(unix.SYS_SETGID, 0)},
	{"capset", capset},
	{"mknod", raw(unix.SYS_MKNODAT, fd(-100), text("/nonexistent/disk"), unix.S_IFBLK|0o600, 0)},
	{"socket_packet", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"socket_raw", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP)},
	{"socket_netlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
	{"socket_vsock", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{"socket_alg", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{"socket_bluetooth", socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1)},
	{"socket_can", socket(unix.AF_CAN, unix.SOCK_RAW, 1)},
	{"process_vm_writev_stranger", toward(vmWrite, false)},
	{"process_vm_writev_child", toward(vmWrite, true)},
	{"ptrace_stranger", toward(seize, false)},
	{"ptrace_child", toward(seize, true)},
	{"memfd_execveat", memfdExec},
	{"memfd_create", memfdUse},
	{"modify_ldt", modifyLDT},
	{"personality_exec", raw(unix.SYS_PERSONALITY, 0x0400000 /* READ_IMPLIES_EXEC */)},
	{"personality_query", raw(unix.SYS_PERSONALITY, 0xffffffff)},
	{"seccomp_listener", filter(8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */, nil)},
	{"seccomp_filter", filter(0, nil)},
	{"seccomp_shadow", filter(0, raw(unix.SYS_KEYCTL, 0, fd(-3), 0))},
	{"flood", flood},
	{"agent_process", agentProcess},
	{"agent_abstract", agentAbstract},
	{"agent_socketpair", agentSocketpair},
	{"socket_inet", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
	{"socket_unix", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)},
	{"int80", int80Attempt(20 /* getpid */)},
	{"int80_unshare", int80Attempt(310)},
	{"x32", x32Attempt(unix.SYS_GETPID, 0)},
	{"x32_unshare", x32Attempt(unix.SYS_UNSHARE, unix.CLONE_NEWNS)},
}

// raw is a call whose arguments are fixed.
func raw(nr uintptr, args ...uintptr) func() (uintptr, syscall.Errno) {
	return func() (uintptr, syscall.Errno) {
		var a [6]uintptr
		copy(a[:], args)
		value, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		return value, errno
	}
}

// texts keeps what text returned the address of alive.
var texts [][]byte

func text(s string) uintptr {
	b := append([]byte(s), 0)
	texts = append(texts, b)
	return uintptr(unsafe.Pointer(&texts[len(texts)-1][0]))
}

// fd converts a negative descriptor, AT_FDCWD or the number of a special keyring to an argument.
func fd(n int) uintptr { return uintptr(n) }

func socket(family, kind, protocol int) func() (uintptr, syscall.Errno) {
	return func() (uintptr, syscall.Errno) {
		n, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		if err == nil {
			unix.Close(n)
		}
		return uintptr(n), errnoOf(err)
	}
}

func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno)
	return errno
}

// cloneNewUser starts a child in a user namespace of its own; the child ends at once.
func cloneNewUser() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if errno == 0 {
		_, _ = unix.Wait4(int(pid), nil, 0, nil)
	}
	return pid, errno
}

func setns() (uintptr, syscall.Errno) {
	f, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		return raw(unix.SYS_SETNS, fd(-1), unix.CLONE_NEWUTS)()
	}
	defer f.Close()
	return raw(unix.SYS_SETNS, f.Fd(), unix.CLONE_NEWUTS)()
}

// mount tries the real thing on a directory that is there, and takes it back.
func mount() (uintptr, syscall.Errno) {
	err := unix.Mount("none", "/sys", "tmpfs", unix.MS_RDONLY, "size=4k")
	if err == nil {
		_ = unix.Unmount("/sys", unix.MNT_DETACH)
	}
	return 0, errnoOf(err)
}

func processRead() (uintptr, syscall.Errno) {
	var b [8]byte
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 8}}
	n, err := unix.ProcessVMReadv(1, local, remote, 0)
	return uintptr(n), errnoOf(err)
}

func perfEvent() (uintptr, syscall.Errno) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	n, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err == nil {
		unix.Close(n)
	}
	return uintptr(n), errnoOf(err)
}

// addKey puts a key into the thread's own keyring, which goes away with it.
func addKey() (uintptr, syscall.Errno) {
	id, err := unix.AddKey("user", "forefend-probe", []byte("x"), unix.KEY_SPEC_THREAD_KEYRING)
	return uintptr(id), errnoOf(err)
}

func ioUring() (uintptr, syscall.Errno) {
	var params [120]byte // struct io_uring_params
	n, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno == 0 {
		unix.Close(int(n))
	}
	return n, errno
}

func openByHandle() (uintptr, syscall.Errno) {
	n, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), unix.O_RDONLY)
	return uintptr(n), errnoOf(err)
}

// capset asks for every capability.
func capset() (uintptr, syscall.Errno) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := [2]unix.CapUserData{
		{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)},
		{Effective: 0x1ff, Permitted: 0x1ff, Inheritable: 0x1ff},
	}
	return 0, errnoOf(unix.Capset(&header, &all[0]))
}
