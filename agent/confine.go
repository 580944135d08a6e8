package agent

import (
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// harden makes the process unreadable to others and takes from it what it does not need. It comes before anything that
// depends on input.
func harden(keep int) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become non-dumpable: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	// The shim passes no other descriptors. One that it had open without close-on-exec would be a way out.
	if err := unix.CloseRange(uint(keep), math.MaxInt32, 0); err != nil {
		return fmt.Errorf("close foreign descriptors: %w", err)
	}
	return nil
}

// limits are what a process that is taken over may use at most, beside what the filter leaves it.
var limits = map[int]uint64{
	unix.RLIMIT_CORE:  0,
	unix.RLIMIT_FSIZE: 0,
}

// Files that an agent may have open. An interceptor has two sockets for each connection, and pipes between them for bodies.
const (
	mostFiles             = 128
	mostInterceptingFiles = 32 << 10
)

// confine goes to the root directory, which is empty, limits the process, and lets it make only those system calls from here on that an agent needs.
func confine(calls []uint32, files uint64) error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Who lowers its own limit needs no privilege; the hard one may be lower already.
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	files = min(files, have.Max)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	for resource, most := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("limit %d: %w", resource, err)
		}
	}
	return install(filter(native, calls))
}

// install puts all threads under the program, for good.
func install(program []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const allThreads = unix.SECCOMP_FILTER_FLAG_TSYNC
	if r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	} else if r != 0 {
		return fmt.Errorf("filter system calls: thread %d has another filter", r)
	}
	return nil
}

// allowed are the system calls of an agent: those of the Go runtime, and those of sockets. None opens a file, makes a
// process, enters a namespace or changes an interface by ioctl.
var allowed = []uint32{
	// files and sockets that are open
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_PREAD64,
	unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SHUTDOWN,
	unix.SYS_SOCKET, unix.SYS_BIND, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_GETSOCKNAME,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	// memory and threads
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_PRCTL,
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_TGKILL,
	unix.SYS_SIGALTSTACK, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGRETURN, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RESTART_SYSCALL, unix.SYS_GETRANDOM,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
	unix.SYS_GETRUSAGE, unix.SYS_CAPGET, unix.SYS_GETEUID, unix.SYS_PRLIMIT64, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// intercepting are the system calls that an interceptor needs besides: it accepts connections, makes others, and moves bytes.
var intercepting = []uint32{
	unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_GETPEERNAME, unix.SYS_SPLICE, unix.SYS_READV, unix.SYS_WRITEV,
}

// threadFlags are the flags of clone with which the Go runtime makes a thread (runtime/os_linux.go), and the only ones
// that pass, with or without CLONE_SETTLS, which goes by the architecture: a process or a namespace needs others.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// Offsets in struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArg0   = 16 // low half first: both architectures are little endian
)

// filter makes the program: calls of the list pass, clone with threadFlags too, all others fail with EPERM, and another
// architecture's are the end of the process. Calls in the list answer before they are made, so what they do is bounded by what is open.
func filter(arch uint32, calls []uint32) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

	program := []unix.SockFilter{load(offsetArch), equal(arch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS), load(offsetNumber)}
	for _, call := range calls {
		program = append(program, equal(call, 0, 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(program,
		equal(unix.SYS_CLONE, 0, 4), // from here to the refusal: argument, without the flag, compare, allow
		load(offsetArg0), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: ^uint32(unix.CLONE_SETTLS)}, equal(threadFlags, 0, 1), ret(unix.SECCOMP_RET_ALLOW),
		ret(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)))
}
