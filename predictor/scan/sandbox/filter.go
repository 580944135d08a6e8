package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowed are the calls of a Go program that reads files. Everything else is refused with EPERM, which libraries bear.
var allowed = []uint32{
	// Files that are read.
	unix.SYS_READ, unix.SYS_READV, unix.SYS_PREAD64, unix.SYS_PREADV, unix.SYS_LSEEK, unix.SYS_CLOSE,
	unix.SYS_OPENAT2, // its flags are behind a pointer: Landlock decides
	unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_FSTATFS, unix.SYS_GETDENTS64, unix.SYS_READLINKAT, unix.SYS_FACCESSAT,
	unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_FGETXATTR, unix.SYS_GETCWD,
	unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_CHDIR, unix.SYS_FCHDIR,
	// The result.
	unix.SYS_WRITE, unix.SYS_WRITEV,
	// Memory; mapping is below.
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	// Go's scheduler, timers and network poller (for pipes).
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP,
	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK,
	unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	// Who and how much.
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_GETRUSAGE, unix.SYS_TIMES, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM,
}

// writing are the calls that a cache directory needs on top.
var writing = []uint32{
	unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT,
	unix.SYS_RENAMEAT2,
	unix.SYS_UNLINKAT, unix.SYS_FLOCK, unix.SYS_FCHMOD, unix.SYS_UTIMENSAT,
}

const (
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	allow  = unix.SECCOMP_RET_ALLOW

	// Where struct seccomp_data has what.
	atNumber, atArch, atArgs = 0, 4, 16
)

// filterCalls is the seccomp layer, on all threads.
func filterCalls(write bool) (missing, err error) {
	program, err := assemble(write, os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("scan sandbox: seccomp: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return &MissingError{Feature: "seccomp", Since: "3.17", Err: errno}, nil
	case errno != 0:
		return nil, fmt.Errorf("scan sandbox: seccomp: %w", errno)
	case thread != 0:
		return nil, fmt.Errorf("scan sandbox: seccomp: %w", fmt.Errorf("thread %d has a filter of its own", thread))
	}
	return nil, nil
}

// assemble writes the filter. self is the only process whose threads may be signalled (Go preempts its own so).
func assemble(write bool, self int) ([]unix.SockFilter, error) {
	code := []bpf.Instruction{
		bpf.LoadAbsolute{Off: atArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: atNumber, Size: 4},
	}
	calls := allowed
	if write {
		calls = append(append([]uint32{}, calls...), writing...)
	}
	for _, number := range append(append([]uint32{}, calls...), perArch...) {
		code = append(code, on(number, bpf.RetConstant{Val: allow})...)
	}
	changes := uint32(unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND | unix.O_TMPFILE&^unix.O_DIRECTORY)
	if write {
		changes = 0
	}
	code = append(code, on(unix.SYS_OPENAT, withoutBits(2, changes)...)...)
	code = append(code, on(unix.SYS_MPROTECT, withoutBits(2, unix.PROT_EXEC)...)...)
	code = append(code, on(unix.SYS_MMAP, mapping()...)...)
	code = append(code, on(unix.SYS_CLONE, withBit(0, unix.CLONE_THREAD)...)...)
	code = append(code, on(unix.SYS_TGKILL, equal(0, uint32(self))...)...)
	code = append(code, on(unix.SYS_CLONE3, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})...)
	code = append(code, bpf.RetConstant{Val: refuse})
	raw, err := bpf.Assemble(code)
	if err != nil {
		return nil, err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return program, nil
}

// on runs body, which must return, for one system call.
func on(number uint32, body ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: uint8(len(body))}}, body...)
}

func argument(n uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: atArgs + 8*n, Size: 4} }

// withoutBits allows a call whose argument has none of bits.
func withoutBits(arg, bits uint32) []bpf.Instruction {
	return []bpf.Instruction{
		argument(arg),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipTrue: 1},
		bpf.RetConstant{Val: allow}, bpf.RetConstant{Val: refuse},
	}
}

func withBit(arg, bit uint32) []bpf.Instruction {
	return []bpf.Instruction{
		argument(arg),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bit, SkipFalse: 1},
		bpf.RetConstant{Val: allow}, bpf.RetConstant{Val: refuse},
	}
}

func equal(arg, value uint32) []bpf.Instruction {
	return []bpf.Instruction{
		argument(arg),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipFalse: 1},
		bpf.RetConstant{Val: allow}, bpf.RetConstant{Val: refuse},
	}
}

// mapping allows mmap but for executable memory, and but for shared memory that is writable or of no file: RLIMIT_DATA
// does not count that.
func mapping() []bpf.Instruction {
	return []bpf.Instruction{
		argument(2),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.PROT_EXEC, SkipTrue: 6},
		argument(3),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.MAP_SHARED, SkipFalse: 3}, // private
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.MAP_ANONYMOUS, SkipTrue: 3},
		argument(2),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.PROT_WRITE, SkipTrue: 1},
		bpf.RetConstant{Val: allow}, bpf.RetConstant{Val: refuse},
	}
}
