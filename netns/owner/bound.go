package owner

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// Load is what goes by a device.
type Load struct {
	Connections int           // TCP connections with a socket that is bound to the device
	Quiet       time.Duration // how long nothing has passed by any of them
}

// Bound tells which TCP connections of a network namespace are bound to a device, by its index. Those that wait for nothing but time
// (TIME_WAIT) are none, and neither are listeners.
func Bound(ns *enter.Namespace, device int) (l Load, err error) {
	l.Quiet = math.MaxInt64
	err = ns.Do(func() error {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			if err := each(census(family, device), l.add); err != nil {
				return fmt.Errorf("connections by device %d: %w", device, err)
			}
		}
		return nil
	})
	return l, err
}

// Numbers of linux/inet_diag.h, and of net/tcp_states.h.
const (
	attributeFilter = 1       // INET_DIAG_REQ_BYTECODE
	attributeInfo   = 2       // INET_DIAG_INFO
	conditionDevice = 9       // INET_DIAG_BC_DEV_COND
	stateSynSent    = 2       // TCP_SYN_SENT
	statesPassing   = 0xb3e   // all but TIME_WAIT, CLOSE, LISTEN and NEW_SYN_RECV
	lastSent        = 44      // tcp_info.tcpi_last_data_sent, in milliseconds
	lastReceived    = 52      // tcp_info.tcpi_last_data_recv
	sizeFilter      = 4 + 4*2 // an attribute, a condition and the device
)

// census asks for all connections of a family that are bound to a device.
func census(family byte, device int) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+sizeRequest+sizeFilter)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], byFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1], r[2] = family, unix.IPPROTO_TCP, 1<<(attributeInfo-1)
	order.PutUint32(r[4:], statesPassing)
	f := r[sizeRequest:]
	order.PutUint16(f, sizeFilter)
	order.PutUint16(f[2:], attributeFilter)
	f[4], f[5] = conditionDevice, 8 // where it holds, to the end
	order.PutUint16(f[6:], 8+4)     // else beyond it
	order.PutUint32(f[8:], uint32(device))
	return b
}

// add counts a connection of the kernel's answer.
func (l *Load) add(body []byte) error {
	if len(body) < sizeMessage {
		return errStrange
	}
	l.Connections++
	quiet := time.Duration(0)
	if info := attribute(body[sizeMessage:], attributeInfo); body[1] != stateSynSent && len(info) >= lastReceived+4 { // one that is being opened has none
		last := min(binary.NativeEndian.Uint32(info[lastSent:]), binary.NativeEndian.Uint32(info[lastReceived:]))
		quiet = time.Duration(last) * time.Millisecond
	}
	l.Quiet = min(l.Quiet, quiet)
	return nil
}

// attribute is what an attribute of a kind holds, nil where there is none.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:]) == kind {
			return b[unix.SizeofRtAttr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// each has the kernel answer with any number of messages.
func each(question []byte, take func(body []byte) error) error {
	fd, err := send(question)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, 32<<10) // what the kernel fills at most at once
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return fmt.Errorf("sock_diag: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return fmt.Errorf("sock_diag: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return errStrange
				}
				return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			case byFamily:
				if err := take(m.Data); err != nil {
					return err
				}
			}
		}
	}
}
