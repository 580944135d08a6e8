package nerdctl

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// isolated marks the process that runs in namespaces of its own.
const isolated = "FOREFEND_NERDCTL_ISOLATED=1"

// cniState is where CNI plugins keep addresses and results, whatever nerdctl is told about directories.
const cniState = "/var/lib/cni"

// TestMain starts the tests anew in network and mount namespaces of their own, if they are to run at all.
func TestMain(m *testing.M) {
	if os.Getenv("FOREFEND_ROOT_TESTS") != "1" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if key, value, _ := strings.Cut(isolated, "="); os.Getenv(key) != value {
		fmt.Fprintln(os.Stderr, "nerdctl tests: ", isolate()) // it returns only when it failed
		os.Exit(1)
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "nerdctl tests: ", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// isolate replaces this process by the same one in new namespaces.
func isolate() error {
	runtime.LockOSThread() // namespaces are a thread's, and execve makes the calling one the process
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), isolated))
}

// settle makes the new namespaces fit to live in.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll(cniState, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", cniState, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount over %s: %w", cniState, err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}
