package seccomp

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// destinationsPerSecond bounds the effort spent on a container that connects
	// in a loop. Beyond it connections pass without being recorded.
	destinationsPerSecond = 500
	pidfdThread           = unix.O_EXCL // PIDFD_THREAD, Linux 6.9
	maxSockaddr           = 128
)

// budget is a token bucket.
type budget struct {
	mu    sync.Mutex // guards all below
	left  int
	since time.Time
}

func (b *budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.since) >= time.Second {
		b.left, b.since = destinationsPerSecond, now
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// destination returns what a waiting connect asks for, "tcp/192.0.2.1:80", or ""
// for other families and unreadable memory. It is for the record only: another
// thread may change the address before the kernel reads it.
func destination(pid uint32, args *[maxArgs]uint64) (key string, internet bool) {
	length := min(args[2], maxSockaddr)
	if length < 8 || args[1] == 0 {
		return "", false
	}
	buf := make([]byte, length)
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(args[1]), Len: len(buf)}}, 0)
	if err != nil {
		return "", true
	}
	addr, ok := parseSockaddr(buf[:n])
	if !ok {
		return "", false
	}
	return socketProtocol(pid, int(int32(args[0]))) + "/" + addr.String(), true
}

// parseSockaddr reads an IPv4 or IPv6 socket address with a port.
func parseSockaddr(b []byte) (netip.AddrPort, bool) {
	if len(b) < 8 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), true
	case unix.AF_INET6:
		if len(b) < 24 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port), true
	}
	return netip.AddrPort{}, false
}

// socketProtocol looks at the caller's socket through a short-lived duplicate.
// "ip" when the kernel does not let us, or the socket is of another type.
func socketProtocol(pid uint32, fd int) string {
	process, err := unix.PidfdOpen(int(pid), pidfdThread)
	if err != nil {
		// Before Linux 6.9: works for the main thread only.
		if process, err = unix.PidfdOpen(int(pid), 0); err != nil {
			return "ip"
		}
	}
	defer unix.Close(process)
	socket, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return "ip"
	}
	defer unix.Close(socket)
	switch kind, _ := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_TYPE); kind {
	case unix.SOCK_STREAM:
		return "tcp"
	case unix.SOCK_DGRAM:
		return "udp"
	}
	return "ip"
}
