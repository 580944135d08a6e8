package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Confinement is what remains allowed after Enter.
type Confinement struct {
	Read  []string // files and directories that may be read, with all below them; they must exist
	Write []string // directories in which files may be made, for the cache of results; they must exist
	// Parented ends the process with the thread that started it; for a scanner that Run started (see FromParent).
	Parented bool
	Limits   Limits // Time (as processor time), Memory and Files hold here as well
}

// nobody is whom the scanner runs as when it is started by root.
const nobody = 65534

// Enter gives up everything but what c leaves, for all threads and for good. It must be called before the first file of
// the image is opened.
//
// It returns ErrCgo, and has done nothing, in a binary that was built with cgo. Errors that match ErrUnsupported mean that the kernel lacks a layer and all others hold: the caller decides whether
// to go on, and records it. After any other error the process is in an unknown state and should exit.
func Enter(c Confinement) error {
	if Cgo {
		return ErrCgo
	}
	c.Limits = c.Limits.withDefaults()
	// The collector works harder before the limit is met: an allocation beyond it ends the process.
	debug.SetMemoryLimit(c.Limits.Memory * 3 / 4)
	for which, value := range rlimits(c.Limits) {
		if err := lower(which, value); err != nil {
			return fmt.Errorf("scan sandbox: limit %d: %w", which, err)
		}
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	missing, err := restrictFiles(c)
	if err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	if c.Parented { // a change of user forgets it
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("scan sandbox: parent-death signal: %w", err)
		}
	}
	lacking, err := filterCalls(len(c.Write) > 0)
	if err != nil {
		return err
	}
	return errors.Join(missing, lacking)
}

// lower sets a limit, but raises none that is lower already.
func lower(which int, value uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(which, &now); err != nil {
		return err
	}
	now.Max = min(now.Max, value)
	now.Cur = min(now.Cur, now.Max)
	return unix.Setrlimit(which, &now)
}

func noNewPrivileges() error {
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("scan sandbox: no new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("scan sandbox: not dumpable: %w", err)
	}
	return nil
}

// restrictFiles is the Landlock layer. Rights are spelled out because the library's sets include execution.
func restrictFiles(c Confinement) (missing, err error) {
	if abi, e := ll.LandlockGetABIVersion(); e != nil || abi < 1 {
		if e == nil {
			e = ErrUnsupported
		}
		return &MissingError{Feature: "Landlock", Since: "5.13", Err: e}, nil
	}
	const file = landlock.AccessFSSet(ll.AccessFSReadFile)
	const dir = file | landlock.AccessFSSet(ll.AccessFSReadDir)
	const write = dir | landlock.AccessFSSet(ll.AccessFSWriteFile|ll.AccessFSMakeReg|ll.AccessFSMakeDir|
		ll.AccessFSRemoveFile|ll.AccessFSTruncate|ll.AccessFSRefer)
	var rules []landlock.Rule
	for _, path := range c.Read {
		info, e := os.Stat(path)
		if e != nil {
			return nil, fmt.Errorf("scan sandbox: %w", e)
		}
		if info.IsDir() {
			rules = append(rules, landlock.PathAccess(dir, path))
		} else {
			rules = append(rules, landlock.PathAccess(file, path))
		}
	}
	if len(c.Write) > 0 {
		rules = append(rules, landlock.PathAccess(write, c.Write...))
	}
	if err := landlock.V9.BestEffort().Restrict(rules...); err != nil {
		return nil, fmt.Errorf("scan sandbox: Landlock: %w", err)
	}
	return nil, nil
}

// dropPrivileges becomes nobody with one capability. A process without root has nothing to drop. The bounding set is left:
// it matters for programs that are executed, and none can be, nor would one gain anything.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"ambient set", func() error {
			return everyThread(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
		}},
		{"keep capabilities", func() error { return everyThread(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0) }},
		{"groups", func() error { return everyThread(unix.SYS_SETGROUPS, 0, 0, 0) }},
		{"group", func() error { return everyThread(unix.SYS_SETRESGID, nobody, nobody, nobody) }},
		{"user", func() error { return everyThread(unix.SYS_SETRESUID, nobody, nobody, nobody) }},
		{"capabilities", keepOneCapability},
		// A change of user makes the process readable again for its new user's others.
		{"not dumpable", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("scan sandbox: %s: %w", s.what, err)
		}
	}
	return nil
}

// everyThread makes a system call on all threads of the process; it fails if it does on any.
func everyThread(call, a, b, c uintptr) error {
	if _, _, errno := psx.Syscall3(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}
