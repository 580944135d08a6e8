// Command probe runs inside the containers of the root tests. It makes system
// calls by name, as a workload or an attacker would, and prints each outcome.
//
// With arguments it runs them and exits; without, it reads one per line.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		for _, command := range os.Args[1:] {
			fmt.Println(run(command))
		}
		return
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(run(in.Text()))
	}
}

func run(command string) string {
	name, rest, _ := strings.Cut(command, ":")
	switch name {
	case "connect":
		network, address, _ := strings.Cut(rest, "/")
		conn, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return "connect=" + err.Error()
		}
		conn.Close()
		return "connect=ok"
	case "flood":
		return flood(rest)
	case "bench":
		return bench(rest)
	case "require": // as a hook: fail unless the outcome is the given one
		command, _, _ := strings.Cut(rest, "=")
		if got := run(command); got != rest {
			fmt.Fprintln(os.Stderr, got)
			os.Exit(1)
		}
		return rest
	case "int80":
		return foreign()
	case "int80_umask":
		if faults(func() { int80(60) }) {
			return "int80_umask=fault"
		}
		return "int80_umask=ok"
	}
	return name + "=" + outcome(call(name))
}

// foreign makes i386's getpid. A filter that refuses the architecture kills the
// thread, and that alone: only its silence tells.
func foreign() string {
	fault := make(chan bool, 1)
	go func() { fault <- faults(func() { int80(20) }) }()
	select {
	case f := <-fault:
		if f {
			return "int80=fault"
		}
		return "int80=ok"
	case <-time.After(300 * time.Millisecond):
		return "int80=killed"
	}
}

// faults reports whether f faults: a kernel that takes no 32-bit calls has no gate for their instruction.
func faults(f func()) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() != nil }()
	f()
	return false
}

// call makes one harmless or failing variant of the named system call.
func call(name string) syscall.Errno {
	nr, args := number(name)
	_, _, errno := syscall.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
	return errno
}

func number(name string) (uintptr, [6]uintptr) {
	switch name {
	case "unshare":
		return 272, [6]uintptr{syscall.CLONE_NEWUTS}
	case "mount":
		return 165, [6]uintptr{}
	case "ptrace":
		return 101, [6]uintptr{16 /* ATTACH */, 1 << 22}
	case "ptrace_filter_stops":
		return 101, [6]uintptr{0x4200 /* SETOPTIONS */, 1 << 22, 0, 0x80 /* O_TRACESECCOMP */}
	case "bpf":
		return 321, [6]uintptr{}
	case "keyctl":
		return 250, [6]uintptr{}
	case "io_uring_setup":
		return 425, [6]uintptr{}
	case "clone_newuser":
		return 56, [6]uintptr{syscall.CLONE_NEWUSER | 0x10000 /* THREAD without SIGHAND: EINVAL if it passes */}
	case "clone3":
		return 435, [6]uintptr{}
	case "socket_alg":
		return 41, [6]uintptr{38, 5}
	case "socket_bad":
		return 41, [6]uintptr{1, 77}
	case "personality":
		return 135, [6]uintptr{0xffffffff}
	case "personality_bad":
		return 135, [6]uintptr{0x0400000}
	case "chroot":
		return 161, [6]uintptr{}
	case "getppid":
		return 110, [6]uintptr{}
	case "open_by_handle_at":
		return 304, [6]uintptr{}
	case "prctl":
		return 157, [6]uintptr{9999}
	case "umask":
		return 95, [6]uintptr{0o22}
	case "unknown":
		return 1000, [6]uintptr{}
	}
	n, _ := strconv.Atoi(name)
	return uintptr(n), [6]uintptr{}
}

func outcome(errno syscall.Errno) string {
	if errno == 0 {
		return "ok"
	}
	return strconv.Itoa(int(errno))
}

// flood makes name N times on T threads: "name,N,T".
func flood(arg string) string {
	f := strings.Split(arg, ",")
	n, _ := strconv.Atoi(f[1])
	threads, _ := strconv.Atoi(f[2])
	nr, args := number(f[0])
	var all sync.WaitGroup
	for range threads {
		all.Go(func() {
			for range n / threads {
				syscall.Syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
			}
		})
	}
	all.Wait()
	return "flood=done"
}

// bench prints the duration of each of N calls in nanoseconds: "name,N,PAUSE",
// with PAUSE (a Go duration) before each.
func bench(arg string) string {
	f := strings.Split(arg, ",")
	n, _ := strconv.Atoi(f[1])
	nr, args := number(f[0])
	pause, _ := time.ParseDuration(f[2])
	took := make([]int64, n)
	for i := range took {
		time.Sleep(pause)
		start := time.Now()
		syscall.Syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
		took[i] = int64(time.Since(start))
	}
	var b strings.Builder
	b.WriteString("bench=")
	for _, t := range took {
		fmt.Fprintf(&b, "%d ", t)
	}
	return b.String()
}
