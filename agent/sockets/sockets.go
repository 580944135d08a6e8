package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
)

// Table asks the kernel for sockets.
type Table struct {
	fd  int
	seq uint32
	buf []byte
}

// patience is how long the kernel may take for one answer: it does not sleep in a dump.
var patience = unix.Timeval{Sec: 2}

// Open opens a Table of the calling thread's network namespace.
func Open() (*Table, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return &Table{fd: fd}, nil
}

// Close closes the Table.
func (t *Table) Close() error { return unix.Close(t.fd) }

// States of TCP that matter, from the kernel's tcp_states.h.
const (
	stateListen = 10
	stateClosed = 7 // of UDP: not connected
)

var stateNames = [...]string{
	1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
	8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "NEW_SYN_RECV",
}

// query is one question to the kernel.
type query struct {
	family, protocol uint8
	states           uint32
	name             string
}

var (
	listening = []query{
		{unix.AF_INET, unix.IPPROTO_TCP, 1 << stateListen, "tcp"},
		{unix.AF_INET6, unix.IPPROTO_TCP, 1 << stateListen, "tcp6"},
	}
	bound = []query{
		{unix.AF_INET, unix.IPPROTO_UDP, 1 << stateClosed, "udp"},
		{unix.AF_INET6, unix.IPPROTO_UDP, 1 << stateClosed, "udp6"},
	}
	connected = []query{
		{unix.AF_INET, unix.IPPROTO_TCP, ^uint32(1 << stateListen), "tcp"},
		{unix.AF_INET6, unix.IPPROTO_TCP, ^uint32(1 << stateListen), "tcp6"},
		{unix.AF_INET, unix.IPPROTO_UDP, ^uint32(1 << stateClosed), "udp"},
		{unix.AF_INET6, unix.IPPROTO_UDP, ^uint32(1 << stateClosed), "udp6"},
	}
)

// Listening calls yield for each listening TCP socket, until it returns false.
func (t *Table) Listening(yield func(api.Socket) bool) error { return t.each(listening, yield) }

// Bound calls yield for each UDP socket that is not connected.
func (t *Table) Bound(yield func(api.Socket) bool) error { return t.each(bound, yield) }

// Connected calls yield for each other socket.
func (t *Table) Connected(yield func(api.Socket) bool) error { return t.each(connected, yield) }

func (t *Table) each(queries []query, yield func(api.Socket) bool) error {
	for _, q := range queries {
		if err := t.dump(q, yield); err != nil {
			return fmt.Errorf("sock_diag %s: %w", q.name, err)
		}
	}
	return nil
}

// Sizes of the kernel's structures: struct inet_diag_req_v2 and inet_diag_msg.
const (
	sizeRequest = 56
	sizeMessage = 72
	byFamily    = 20 // SOCK_DIAG_BY_FAMILY
	attrCgroup  = 21 // INET_DIAG_CGROUP_ID, since Linux 5.9
)

// dump asks one question and reads the answer to its end, even when yield wants no more.
func (t *Table) dump(q query, yield func(api.Socket) bool) error {
	t.seq++
	order := binary.NativeEndian
	msg := make([]byte, unix.SizeofNlMsghdr+sizeRequest)
	order.PutUint32(msg, uint32(len(msg)))
	order.PutUint16(msg[4:], byFamily)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	order.PutUint32(msg[8:], t.seq)
	msg[16], msg[17] = q.family, q.protocol
	order.PutUint32(msg[20:], q.states)
	if err := unix.Sendto(t.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if t.buf == nil {
		t.buf = make([]byte, 32<<10) // the kernel fills at most that much at once
	}
	for more := true; ; {
		n, from, err := unix.Recvfrom(t.fd, t.buf, 0)
		if err != nil {
			return err
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // not the kernel
		}
		done, err := parse(t.buf[:n], t.seq, func(s api.Socket) {
			s.Protocol = q.name
			more = more && yield(s)
		})
		if done || err != nil {
			return err
		}
	}
}

// parse reads the messages of one datagram of the kernel.
func parse(b []byte, seq uint32, found func(api.Socket)) (done bool, err error) {
	order := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(order.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return true, fmt.Errorf("a message of %d bytes in %d", length, len(b))
		}
		body := b[unix.SizeofNlMsghdr:length]
		kind, answers := order.Uint16(b[4:]), order.Uint32(b[8:])
		b = b[min(len(b), (length+3)&^3):]
		if answers != seq {
			continue // of a dump that was given up
		}
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, unix.EPROTO
			}
			return true, unix.Errno(-int32(order.Uint32(body)))
		case byFamily:
			if len(body) >= sizeMessage {
				found(socket(body))
			}
		}
	}
	return false, nil
}

// socket reads an inet_diag_msg and the attributes after it.
func socket(b []byte) api.Socket {
	order := binary.NativeEndian
	state := int(b[1])
	s := api.Socket{State: "?", UID: order.Uint32(b[64:]), Inode: order.Uint32(b[68:])}
	if state < len(stateNames) && stateNames[state] != "" {
		s.State = stateNames[state]
	}
	s.Local = endpoint(b[0], b[8:24], binary.BigEndian.Uint16(b[4:])).String()
	if remote := endpoint(b[0], b[24:40], binary.BigEndian.Uint16(b[6:])); remote.Port() != 0 {
		s.Remote = remote.String()
	}
	for attrs := b[sizeMessage:]; len(attrs) >= 4; {
		length, kind := int(order.Uint16(attrs)), order.Uint16(attrs[2:])
		if length < 4 || length > len(attrs) {
			break
		}
		if kind == attrCgroup && length == 12 {
			s.Cgroup = order.Uint64(attrs[4:])
		}
		attrs = attrs[min(len(attrs), (length+3)&^3):]
	}
	return s
}

func endpoint(family uint8, address []byte, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(address)), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(address)), port)
}
