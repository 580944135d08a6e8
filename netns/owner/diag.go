package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Connection is a TCP connection by its ends, as the process that opened it sees them: before any address translation.
type Connection struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// Sizes and numbers of linux/inet_diag.h and linux/sock_diag.h.
const (
	sizeRequest = 56 // struct inet_diag_req_v2
	sizeMessage = 72 // struct inet_diag_msg
	byFamily    = 20 // SOCK_DIAG_BY_FAMILY
	destroy     = 21 // SOCK_DESTROY
	stateListen = 10 // TCP_LISTEN
)

// patience bounds the wait for the kernel, which answers before the question's system call returns.
var patience = unix.Timeval{Sec: 1}

// inode is that of the connection's socket in the calling thread's network namespace. The error wraps unix.ENOENT where there is none, or
// none that a process still has.
func inode(c Connection) (uint32, error) {
	b, err := ask(question(c))
	if err != nil {
		return 0, err
	}
	found, err := answer(b, c)
	if err != nil {
		return 0, fmt.Errorf("no socket of %s to %s: %w", c.Local, c.Remote, err)
	}
	return found, nil
}

// ask has the kernel answer one message.
func ask(message []byte) ([]byte, error) {
	fd, err := send(message)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var b [1024]byte
	n, _, err := unix.Recvfrom(fd, b[:], 0)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return b[:n], nil
}

// send asks the kernel, which answers by the socket that is returned.
func send(message []byte) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, fmt.Errorf("sock_diag: %w", err)
	}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return -1, errors.Join(fmt.Errorf("sock_diag: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// question asks for the one socket with these ends; its kernel finds IPv6 sockets with mapped addresses by their IPv4 ones, too.
func question(c Connection) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+sizeRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], byFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if c.Local.Addr().Unmap().Is6() {
		r[0] = unix.AF_INET6
	}
	order.PutUint32(r[4:], ^uint32(0)) // all states
	binary.BigEndian.PutUint16(r[8:], c.Local.Port())
	binary.BigEndian.PutUint16(r[10:], c.Remote.Port())
	copy(r[12:], c.Local.Addr().Unmap().AsSlice())
	copy(r[28:], c.Remote.Addr().Unmap().AsSlice())
	order.PutUint64(r[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

var errStrange = errors.New("the kernel's answer makes no sense")

// answer reads the kernel's message. A listener, which the kernel looks for where there is no connection, is none.
func answer(b []byte, c Connection) (uint32, error) {
	order := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr {
		return 0, errStrange
	}
	body := b[unix.SizeofNlMsghdr:]
	switch kind := order.Uint16(b[4:]); {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		return 0, unix.Errno(-int32(order.Uint32(body)))
	case kind != byFamily || len(body) < sizeMessage:
		return 0, errStrange
	}
	inode := order.Uint32(body[68:])
	if body[1] == stateListen || inode == 0 || binary.BigEndian.Uint16(body[4:]) != c.Local.Port() || binary.BigEndian.Uint16(body[6:]) != c.Remote.Port() {
		return 0, unix.ENOENT
	}
	return inode, nil
}
