//go:build !cgo

package agent

// An agent is built without cgo, whose threads are made by glibc, with calls that the filter does not know.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary confine itself and try what an agent must not do.
func TestMain(m *testing.M) {
	if os.Getenv("FOREFEND_TEST_CONFINED") != "" {
		if err := confined(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func confined() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := install(filter(native, allowed)); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	// The runtime makes threads whenever it likes.
	var threads sync.WaitGroup
	hold := make(chan struct{})
	for range 20 {
		threads.Go(func() {
			runtime.LockOSThread()
			<-hold
		})
	}
	close(hold)
	threads.Wait()
	var failed []error
	for name, try := range map[string]func() error{
		"open":    func() error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err },
		"execve":  func() error { return unix.Exec("/bin/true", nil, nil) },
		"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"setns":   func() error { return unix.Setns(0, 0) },
		"connect": func() error { return unix.Connect(0, &unix.SockaddrUnix{Name: "@x"}) },
		"kill":    func() error { return unix.Kill(os.Getppid(), 0) },
		"ioctl":   func() error { _, err := unix.IoctlGetInt(0, unix.TCGETS); return err },
		"ptrace":  func() error { return unix.PtraceAttach(os.Getppid()) },
		"mount":   func() error { return unix.Mount("a", "/", "tmpfs", 0, "") },
		"fork": func() error {
			_, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
			return errno
		},
		"clone with a namespace": func() error {
			_, _, errno := unix.RawSyscall(unix.SYS_CLONE, threadFlags|unix.CLONE_NEWUSER, 0, 0)
			return errno
		},
	} {
		if err := try(); !errors.Is(err, unix.EPERM) {
			failed = append(failed, fmt.Errorf("%s: %v", name, err))
		}
	}
	return errors.Join(failed...)
}

// TestConfined: threads can be made, and nothing else that an agent does not need.
func TestConfined(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FOREFEND_TEST_CONFINED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestForeignArchitecture: calls of another architecture end the process, whatever their number.
func TestForeignArchitecture(t *testing.T) {
	program := filter(native, allowed)
	if program[1].K != native || program[1].Jt != 1 || program[2].K != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("%+v", program[:3])
	}
}
