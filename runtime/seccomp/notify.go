package seccomp

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoNotify is wrapped by NewSupervisor's Attach on kernels without seccomp
// user notification that can continue a call (before Linux 5.5).
var ErrNoNotify = errors.New("seccomp user notification needs Linux 5.5")

// notification is struct seccomp_notif. The kernel may know a longer one; the
// buffer it fills is sized by notificationBuffer.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [maxArgs]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// notificationBuffer leaves room for kernels whose structure has grown.
type notificationBuffer struct {
	notification
	_ [176]byte
}

// checkNotifySizes makes sure that the kernel's structures fit ours.
func checkNotifySizes() error {
	var sizes struct{ notif, resp, data uint16 }
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes))); errno != 0 {
		return fmt.Errorf("%w: %w", ErrNoNotify, errno)
	}
	if uintptr(sizes.notif) > unsafe.Sizeof(notificationBuffer{}) || uintptr(sizes.resp) != unsafe.Sizeof(answer{}) {
		return fmt.Errorf("%w: unknown structure sizes %d and %d", ErrNoNotify, sizes.notif, sizes.resp)
	}
	return nil
}

// receive fetches the oldest notification of fd. Call it only after poll said
// there is one: then it does not block (a notification that vanished meanwhile
// yields ENOENT), which is why it need not tell Go's scheduler about the call.
func receive(fd int, n *notificationBuffer) error {
	*n = notificationBuffer{} // the kernel insists on zeros
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
}

// send answers a notification. ENOENT means the caller is gone or was interrupted.
func send(fd int, a *answer) error {
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(a))
}

// stillWaiting reports whether the caller of notification id still waits, so that
// what was read of its process belongs to it and not to a later one of that number.
func stillWaiting(fd int, id uint64) bool {
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// wakeSynchronously makes the kernel switch between caller and supervisor on one
// CPU. Kernels before 6.6 refuse, and cost about 15 µs more a call.
func wakeSynchronously(fd int) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	return errno == 0
}

// poll returns what is up with fd now, 0 when nothing is.
func poll(fd int) int16 {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var now unix.Timespec
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if errno != 0 || n == 0 {
		return 0
	}
	return p.Revents
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}

// isNotifyDescriptor reports whether fd is a seccomp listener: the peer is root,
// but a descriptor of another kind would make the loop misbehave.
func isNotifyDescriptor(fd int) bool {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err == nil && link == "anon_inode:seccomp notify"
}
