package main

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attempts to reach other processes, to get round the filter, and to find the agent. Each has a twin that a benign program makes.

// stranger is a process of the container that is not the caller's own: one called sleep.
func stranger() int {
	found, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range found {
		if name, err := os.ReadFile(path); err == nil && string(name) == "sleep\n" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// child starts a process that does nothing, as a copy of this one, and returns it with what ends it. It works where no
// program may be executed.
func child() (pid int, end func(), errno syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && n == 0 {
		for { // a copy of a threaded program may make raw calls alone
			syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	return int(n), func() {
		_ = unix.Kill(int(n), unix.SIGKILL)
		_, _ = unix.Wait4(int(n), nil, 0, nil)
	}, errno
}

// toward makes a call against a stranger, or against a child of the caller's.
func toward(call func(pid int) (uintptr, syscall.Errno), own bool) func() (uintptr, syscall.Errno) {
	return func() (uintptr, syscall.Errno) {
		if !own {
			if pid := stranger(); pid > 0 {
				return call(pid)
			}
			return 0, syscall.ESRCH
		}
		pid, end, errno := child()
		if errno != 0 {
			return 0, errno
		}
		defer end()
		return call(pid)
	}
}

// written is what vmWrite writes over in a child, where it has the same address.
var written [8]byte

func vmWrite(pid int) (uintptr, syscall.Errno) {
	var from [8]byte
	local := []unix.Iovec{{Base: &from[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&written[0])), Len: 8}}
	n, err := unix.ProcessVMWritev(pid, local, remote, 0)
	return uintptr(n), errnoOf(err)
}

// seize traces a process without stopping it; the trace ends with the calling thread.
func seize(pid int) (uintptr, syscall.Errno) {
	return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid))()
}

// memfdExec executes a program that is in no file system, in a child: the copy of this one in memory.
func memfdExec() (uintptr, syscall.Errno) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 0, errnoOf(err)
	}
	memory, errno := memfd(program)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(memory)
	argv := []uintptr{text("probe"), text("exit"), text("0"), 0}
	empty := text("")
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(memory), empty, uintptr(unsafe.Pointer(&argv[0])), 0, unix.AT_EMPTY_PATH, 0)
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
		}
	}
	runtime.KeepAlive(argv)
	if errno != 0 {
		return 0, errno
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(pid), &status, 0, nil); err != nil {
		return 0, errnoOf(err)
	}
	return 0, syscall.Errno(status.ExitStatus())
}

// memfdUse does with anonymous memory what it is for.
func memfdUse() (uintptr, syscall.Errno) {
	memory, errno := memfd([]byte("text"))
	if errno == 0 {
		unix.Close(memory)
	}
	return 0, errno
}

func memfd(content []byte) (int, syscall.Errno) {
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, errnoOf(err)
	}
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			unix.Close(fd)
			return -1, errnoOf(err)
		}
		content = content[n:]
	}
	return fd, 0
}

// filter puts a filter that allows everything on the calling thread, and then makes a call.
func filter(flags uintptr, then func() (uintptr, syscall.Errno)) func() (uintptr, syscall.Errno) {
	return func() (uintptr, syscall.Errno) {
		const setModeFilter, allow = 1, 0x7fff0000
		code := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: allow}}
		program := unix.SockFprog{Len: 1, Filter: &code[0]}
		if _, errno := raw(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)(); errno != 0 {
			return 0, errno
		}
		fd, _, errno := syscall.Syscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&program)))
		runtime.KeepAlive(&code)
		if errno == 0 && flags != 0 {
			unix.Close(int(fd))
		}
		if errno != 0 || then == nil {
			return fd, errno
		}
		return then()
	}
}

// flood makes a denied call many times on some threads. It is denied only if every one was.
func flood() (uintptr, syscall.Errno) {
	const threads, each = 4, 5000
	var wg sync.WaitGroup
	var mu sync.Mutex
	var passed bool // guarded by mu
	for range threads {
		wg.Go(func() {
			for range each {
				if _, errno := raw(unix.SYS_KEYCTL, 0, fd(-3), 0)(); errno != syscall.EPERM {
					mu.Lock()
					passed = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if passed {
		return 0, 0
	}
	return 0, syscall.EPERM
}

// agentProcess looks for a process whose name, program or command line says that it is Forefend's. None is ESRCH.
func agentProcess() (uintptr, syscall.Errno) {
	self := strconv.Itoa(os.Getpid())
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range found {
		if filepath.Base(dir) == self {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		if strings.Contains(string(comm)+string(line)+exe, "forefend") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return uintptr(pid), 0
		}
	}
	return 0, syscall.ESRCH
}

// unixSockets lists the sockets of the network namespace: inode, and name ("" where there is none).
func unixSockets() map[string]string {
	sockets := make(map[string]string)
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return sockets
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) >= 7 && words[0] != "Num" {
			sockets[words[6]] = strings.Join(words[7:], " ")
		}
	}
	return sockets
}

// agentAbstract connects to every abstract socket there is. None is ENOENT.
func agentAbstract() (uintptr, syscall.Errno) {
	last := syscall.ENOENT
	for _, name := range unixSockets() {
		if !strings.HasPrefix(name, "@") {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
			s, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0, errnoOf(err)
			}
			err = unix.Connect(s, &unix.SockaddrUnix{Name: name})
			unix.Close(s)
			if err == nil {
				return 0, 0
			}
			last = errnoOf(err)
		}
	}
	return 0, last
}

// agentSocketpair takes the sockets of other processes that have no name, as the agent's channel has none. It can be seen in
// /proc/net/unix; to be taken its holder would have to be. None is ENOENT.
func agentSocketpair() (uintptr, syscall.Errno) {
	last := syscall.ENOENT
	sockets, self := unixSockets(), strconv.Itoa(os.Getpid())
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, _ := os.Readlink(link)
		name, known := sockets[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")]
		words := strings.Split(link, "/")
		if !known || name != "" || words[2] == self {
			continue
		}
		pid, _ := strconv.Atoi(words[2])
		number, _ := strconv.Atoi(words[4])
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			last = errnoOf(err)
			continue
		}
		taken, err := unix.PidfdGetfd(process, number, 0)
		unix.Close(process)
		if err == nil {
			unix.Close(taken)
			return uintptr(pid), 0
		}
		last = errnoOf(err)
	}
	return 0, last
}

// inCopy makes a call in a process of its own, a copy of this one: what kills the caller kills that.
func inCopy(call func() syscall.Errno) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		var byDefault [32]byte // struct sigaction of the kernel: Go's handlers have no runtime under them here
		for _, signal := range []uintptr{uintptr(unix.SIGSYS), uintptr(unix.SIGSEGV), uintptr(unix.SIGILL)} {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		}
		errno = call()
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
		}
	}
	if errno != 0 {
		return 0, errno
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(pid), &status, 0, nil); err != nil {
		return 0, errnoOf(err)
	}
	if status.Signaled() {
		return 0, killedBy + syscall.Errno(status.Signal())
	}
	return 0, syscall.Errno(status.ExitStatus())
}
