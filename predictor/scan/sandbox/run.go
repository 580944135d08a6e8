package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
)

// Run starts the scanner (the path of forefend-scan) with args, which have to make it print one evidence.Scan as JSON,
// and waits for it. The scanner gets none of the caller's environment, no input and, when the caller is root, namespaces of its own.
//
// Errors match ErrTime, ErrOutput or *FailedError; also context.Canceled when ctx was, and what exec says when the
// binary cannot be started. Whatever the error, no process is left.
func Run(ctx context.Context, binary string, args []string, limits Limits) (evidence.Scan, error) {
	limits = limits.withDefaults()
	timed, cancel := context.WithTimeoutCause(ctx, limits.Time, timeError(limits.Time))
	defer cancel()

	// The parent-death signal belongs to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	out := &bounded{limit: limits.Output, full: cancel}
	errs := &head{limit: keptErrors}
	cmd := command(timed, binary, args, limits, out, errs)
	if err := cmd.Start(); err != nil {
		return evidence.Scan{}, fmt.Errorf("start scanner: %w", err)
	}
	err := admit(cmd.Process.Pid, limits)
	if err != nil {
		cancel()
	}
	if e := cmd.Wait(); err == nil {
		err = verdict(ctx, timed, out, e, errs.kept.String())
	}
	if err != nil {
		return evidence.Scan{}, err
	}
	return decode(out.kept.Bytes())
}

func command(ctx context.Context, binary string, args []string, limits Limits, out, errs io.Writer) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{"GOTRACEBACK=none", ParentVariable + "=" + limits.encode()}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	}
	return cmd
}

// admit bounds the new process from outside, so that the bounds hold even if it never calls Enter. One that did has set
// them itself, and may belong to another user by now: then the kernel says EPERM.
func admit(pid int, limits Limits) error {
	for which, value := range rlimits(limits) {
		set := unix.Rlimit{Cur: value, Max: value}
		if err := unix.Prlimit(pid, which, &set, nil); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("limit scanner: %w", err)
		}
	}
	if limits.Started == nil {
		return nil
	}
	if err := limits.Started(pid); err != nil {
		return fmt.Errorf("place scanner: %w", err)
	}
	return nil
}

// rlimits are the resource limits of a scanner. RLIMIT_DATA is the one for memory because it counts what is private and
// writable: Go reserves, and a mapped file takes, far more address space than memory. RLIMIT_CPU is for a scanner whose
// parent cannot end it: no number of threads uses it up before the time is over.
func rlimits(l Limits) map[int]uint64 {
	return map[int]uint64{
		unix.RLIMIT_DATA:    uint64(l.Memory),
		unix.RLIMIT_CPU:     uint64((l.Time+time.Second-1)/time.Second)*uint64(runtime.NumCPU()) + 1,
		unix.RLIMIT_NOFILE:  l.Files,
		unix.RLIMIT_FSIZE:   largestFile,
		unix.RLIMIT_CORE:    0,
		unix.RLIMIT_MEMLOCK: 0,
	}
}

// verdict turns how the process ended into an error. The reason of our own for ending it comes first.
func verdict(asked, timed context.Context, out *bounded, err error, stderr string) error {
	var exit *exec.ExitError
	switch {
	case out.over:
		return fmt.Errorf("%w: more than %d bytes", ErrOutput, out.limit)
	case err == nil:
		return nil
	case asked.Err() != nil:
		return fmt.Errorf("scan: %w", context.Cause(asked))
	case timed.Err() != nil:
		return context.Cause(timed)
	case !errors.As(err, &exit):
		return fmt.Errorf("wait for scanner: %w", err)
	}
	failed := &FailedError{Code: exit.ExitCode(), Stderr: stderr}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		failed.Signal = unix.SignalName(status.Signal())
		if status.Signal() == syscall.SIGXCPU {
			return fmt.Errorf("%w: %w", ErrTime, failed)
		}
	}
	return failed
}

func decode(b []byte) (evidence.Scan, error) {
	var scan evidence.Scan
	if err := json.Unmarshal(b, &scan); err != nil {
		return evidence.Scan{}, fmt.Errorf("%w: %w", ErrOutput, err)
	}
	if scan.Version != evidence.ScanVersion {
		return evidence.Scan{}, fmt.Errorf("%w: version %d of the format, this forefend reads %d: install both of one release",
			ErrOutput, scan.Version, evidence.ScanVersion)
	}
	return scan, nil
}

// bounded keeps up to limit bytes and calls full once there are more. It hides the buffer's ReadFrom, which knows no limit.
type bounded struct {
	kept  bytes.Buffer
	limit int64
	over  bool
	full  func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(b.kept.Len())+int64(len(p)) > b.limit {
		b.over = true
		b.full()
		return 0, ErrOutput
	}
	return b.kept.Write(p)
}

// head keeps the first bytes: what went wrong first is the reason for the rest.
type head struct {
	kept  bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), h.limit-h.kept.Len())])
	return len(p), nil
}
