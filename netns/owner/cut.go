package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// Cut ends a connection of a network namespace, whoever has it: both ends learn that it was reset. device is the index of the one
// that its socket is bound to, 0 for none. Of UDP, it ends a socket that is connected, whose owner learns of it (ECONNABORTED). The error wraps
// unix.ENOENT where there is no such connection.
func Cut(ns *enter.Namespace, protocol uint8, c Connection, device int) error {
	return ns.Do(func() error {
		b, err := ask(sentence(protocol, c, device))
		if err != nil {
			return err
		}
		if err := verdict(b); err != nil {
			return fmt.Errorf("end the connection of %s to %s: %w", c.Local, c.Remote, err)
		}
		return nil
	})
}

// sentence asks for the end of a connection (SOCK_DESTROY).
func sentence(protocol uint8, c Connection, device int) []byte {
	b := question(c)
	b[unix.SizeofNlMsghdr+1] = protocol
	binary.NativeEndian.PutUint16(b[4:], destroy)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+44:], uint32(device))
	return b
}

// verdict reads the kernel's acknowledgement.
func verdict(b []byte) error {
	if len(b) < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errStrange
	}
	if e := -int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// Gone tells that an error of Cut says that there is no such connection.
func Gone(err error) bool { return errors.Is(err, unix.ENOENT) }

// CutBound ends the TCP connections of a network namespace that are bound to a device, by its index, as Cut does, and says how many. Those
// from an address that is kept go on.
func CutBound(ns *enter.Namespace, device int, kept ...netip.Addr) (ended int, err error) {
	err = ns.Do(func() error {
		var all [][]byte
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			err := each(census(family, device), func(body []byte) error {
				if len(body) < sizeMessage {
					return errStrange
				}
				if !slices.Contains(kept, localOf(body)) {
					all = append(all, sentenceOf(body))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		for _, one := range all {
			b, err := ask(one)
			if err == nil {
				err = verdict(b)
			}
			switch {
			case err == nil:
				ended++
			case !Gone(err): // it ended by itself
				return err
			}
		}
		return nil
	})
	if err != nil {
		return ended, fmt.Errorf("end connections by device %d: %w", device, err)
	}
	return ended, nil
}

// localOf is the local address of a connection that the kernel told of.
func localOf(body []byte) netip.Addr {
	if body[0] == unix.AF_INET {
		return netip.AddrFrom4([4]byte(body[8:]))
	}
	return netip.AddrFrom16([16]byte(body[8:])).Unmap()
}

// sentenceOf asks for the end of a connection that the kernel told of.
func sentenceOf(body []byte) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+sizeRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], destroy)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = body[0], unix.IPPROTO_TCP
	order.PutUint32(r[4:], ^uint32(0)) // all states
	copy(r[8:], body[4:52])            // its identity
	return b
}
