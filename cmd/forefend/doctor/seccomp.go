package doctor

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/seccomp.h; x/sys/unix has no names for them.
const (
	setModeFilter     = 1
	getActionAvail    = 2
	flagNewListener   = 1 << 3
	flagWaitKillable  = 1 << 5
	retUserNotif      = 0x7fc00000
	retAllow          = 0x7fff0000
	syncWakeUp        = 1
	ioctlNotifSetFlag = 0x40082104 // _IOW('!', 4, __u64)
)

// seccompTrial is how each part of system call supervision fared: nil is well.
type seccompTrial struct{ notify, listener, wake, killable error }

// trySeccomp tries system call supervision on threads that end with the probe.
func trySeccomp() (t seccompTrial) {
	action := uint32(retUserNotif)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		t.notify = errno
		return t
	}
	t.listener = withListener(0, func(fd uintptr) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlNotifSetFlag, syncWakeUp); errno != 0 {
			t.wake = errno
		}
		return nil
	})
	t.killable = withListener(flagWaitKillable, func(uintptr) error { return nil })
	return t
}

func seccompRows(t seccompTrial) []Row {
	const supervision, unsupervised = "seccomp supervision", "system calls cannot be watched: containers with a watched call do not start"
	switch {
	case t.notify != nil:
		return []Row{missing(supervision, "no user notification: "+t.notify.Error(), unsupervised, "Linux 5.9 or newer with CONFIG_SECCOMP_FILTER")}
	case t.listener != nil:
		return []Row{missing(supervision, t.listener.Error(), unsupervised, "run as root, outside of a container that filters seccomp")}
	}
	wake, killable := ok("seccomp SYNC_WAKE_UP", "a watched call costs a few microseconds"), ok("seccomp WAIT_KILLABLE", "offered by the kernel")
	if t.wake != nil {
		wake = degraded("seccomp SYNC_WAKE_UP", "not offered: "+t.wake.Error(), "a watched call costs about three times as much", "Linux 6.6 or newer")
	}
	if t.killable != nil {
		killable = degraded("seccomp WAIT_KILLABLE", "not offered: "+t.killable.Error(), "a signal can restart a watched call", "Linux 5.19 or newer")
	}
	return []Row{ok(supervision, "user notification works"), wake, killable}
}

// withListener installs a filter with a listener on a thread of its own and calls do with the listener. No other thread
// ever has the filter.
func withListener(flags uintptr, do func(fd uintptr) error) error {
	return onOwnThread(func() error {
		// Not for privilege, but so that the probe also works without CAP_SYS_ADMIN.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
		fd, err := listen(flags)
		if err != nil {
			return err
		}
		defer unix.Close(int(fd))
		return do(fd)
	})
}

// listen filters one call that Go never makes: everything else stays native.
func listen(flags uintptr) (uintptr, error) {
	const load, jumpEqual, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 0},
		{Code: jumpEqual, K: unix.SYS_VHANGUP, Jt: 0, Jf: 1},
		{Code: ret, K: retUserNotif},
		{Code: ret, K: retAllow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, flagNewListener|flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return 0, fmt.Errorf("install a filter with a listener: %w", errno)
	}
	return fd, nil
}
