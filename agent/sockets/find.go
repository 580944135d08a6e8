package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
)

// Find returns the socket of a network ("tcp" or "udp") that has these ends, which are as the process sees them, before any address translation.
// A UDP socket that is not connected has every remote end. The error wraps unix.ENOENT where there is none, or none that a process has.
func (t *Table) Find(network string, local, remote netip.AddrPort) (s api.Socket, err error) {
	t.seq++
	if err := unix.Sendto(t.fd, exactly(t.seq, network, local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return s, fmt.Errorf("sock_diag: %w", err)
	}
	var b [1024]byte
	for s.Inode == 0 && err == nil {
		var n int
		if n, _, err = unix.Recvfrom(t.fd, b[:], 0); err != nil {
			break
		}
		found := false
		_, err = parse(b[:n], t.seq, func(is api.Socket) { s, found = is, true })
		if found && (s.Inode == 0 || s.State == stateNames[stateListen]) { // the kernel looks for a listener where there is no connection
			err = unix.ENOENT
		}
	}
	if err != nil {
		return api.Socket{}, fmt.Errorf("no socket of %s to %s: %w", local, remote, err)
	}
	s.Protocol = network
	return s, nil
}

// exactly asks for one socket. A socket of IPv6 with mapped addresses is found by its IPv4 ones, too.
func exactly(seq uint32, network string, local, remote netip.AddrPort) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+sizeRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], byFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	order.PutUint32(b[8:], seq)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Addr().Unmap().Is6() {
		r[0] = unix.AF_INET6
	}
	order.PutUint32(r[4:], ^uint32(0)) // all states
	source, destination := local, remote
	if network == "udp" { // whose lookup in the kernel is that of a packet that comes in
		r[1] = unix.IPPROTO_UDP
		source, destination = remote, local
	}
	binary.BigEndian.PutUint16(r[8:], source.Port())
	binary.BigEndian.PutUint16(r[10:], destination.Port())
	copy(r[12:], source.Addr().Unmap().AsSlice())
	copy(r[28:], destination.Addr().Unmap().AsSlice())
	order.PutUint64(r[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
