package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errDirect is a connection that no rule redirected: somebody connects to the interceptor's own port.
var errDirect = errors.New("the connection was not redirected")

// original asks the kernel where a redirected connection was going.
func original(conn *net.TCPConn) (netip.AddrPort, error) {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	var option error
	err = raw.Control(func(fd uintptr) {
		if local.Addr().Unmap().Is4() {
			to, option = original4(int(fd))
		} else {
			to, option = original6(int(fd))
		}
	})
	switch {
	case err != nil:
		return to, err
	case errors.Is(option, unix.ENOENT), errors.Is(option, unix.ENOPROTOOPT), option == nil && to == netip.AddrPortFrom(local.Addr().Unmap(), local.Port()):
		// Not in conntrack, or there with our own address: the way would lead back here.
		return to, errDirect
	case option != nil:
		return to, fmt.Errorf("original destination: %w", option)
	}
	return to, nil
}

// original4 is SO_ORIGINAL_DST: a struct sockaddr_in.
func original4(fd int) (netip.AddrPort, error) {
	var b [unix.SizeofSockaddrInet4]byte
	if err := getsockopt(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST, b[:]); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), nil
}

// original6 is IP6T_SO_ORIGINAL_DST, the same number: a struct sockaddr_in6. A link-local address keeps its interface.
func original6(fd int) (netip.AddrPort, error) {
	var b [unix.SizeofSockaddrInet6]byte
	if err := getsockopt(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST, b[:]); err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom16([16]byte(b[8:24]))
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[2:])), nil
}

func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
