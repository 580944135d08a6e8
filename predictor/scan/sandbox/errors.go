package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrUnsupported matches (errors.Is) every MissingError.
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrTime: the scan was ended at its deadline, or at its limit of processor time.
	ErrTime = errors.New("scan took too long")
	// ErrOutput: the scanner printed more than Limits.Output, or what is no scan.
	ErrOutput = errors.New("scanner's output is unusable")
	// ErrCgo: with cgo a call reaches all threads by libpsx, which lists them in /proc/PID/task. In the PID namespace that Run
	// makes, PID is 1 and /proc the host's: it waits for ever for the threads of the host's init.
	ErrCgo = errors.New("scan sandbox: the scanner was built with cgo, which cannot confine all threads in a PID namespace: build it with CGO_ENABLED=0")
)

// MissingError says that the kernel lacks a layer of the sandbox. All other layers are in place when Enter returns it.
type MissingError struct {
	Feature string // Landlock, seccomp
	Since   string // the version of Linux that has it
	Err     error  // what the kernel said
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("scan sandbox without %s (Linux %s has it, unless disabled at boot): %v", e.Feature, e.Since, e.Err)
}

// Unwrap makes errors.Is(err, ErrUnsupported) true.
func (e *MissingError) Unwrap() []error { return []error{ErrUnsupported, e.Err} }

// FailedError says how the scanner ended when it did not end well.
type FailedError struct {
	Code   int    // exit status; -1: by a signal
	Signal string // the signal's name, or ""
	Stderr string // the beginning of what it wrote to its standard error
}

func (e *FailedError) Error() string {
	how := fmt.Sprintf("scanner exited with status %d", e.Code)
	if e.Signal != "" {
		how = "scanner was ended by " + e.Signal
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		how += ": " + s
	}
	return how
}

// timeError tells after how long.
func timeError(after time.Duration) error { return fmt.Errorf("%w: more than %v", ErrTime, after) }
