package gate

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// framed asks for an address by ARP, as a frame of its own making on in0: past IP, and so past the programs on the cgroup. Nil
// says that it was answered, so that it was on the wire.
func framed(to string) error {
	const arp = 0x0806
	link, err := net.InterfaceByName("in0")
	if err != nil {
		return err
	}
	protocol := binary.NativeEndian.Uint16([]byte{arp >> 8, arp & 0xff})
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return err
	}
	defer unix.Close(s)
	everybody := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	if err := unix.Bind(s, everybody); err != nil {
		return err
	}
	tv := unix.NsecToTimeval(int64(wait / 4))
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	own, other := netip.MustParseAddr(inside4).As4(), netip.MustParseAddr(to).As4()
	request := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, link.HardwareAddr...)
	request = append(append(append(request, own[:]...), make([]byte, 6)...), other[:]...)
	if err := unix.Sendto(s, request, 0, everybody); err != nil {
		return err
	}
	b := make([]byte, 128)
	for end := time.Now().Add(wait / 2); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(s, b, 0)
		if errors.Is(err, unix.EINTR) { // by a signal of Go's; a socket with a time limit is not read again by itself
			continue
		}
		if err != nil {
			return err
		}
		if n >= 28 && b[7] == 2 && [4]byte(b[14:18]) == other {
			return nil
		}
	}
	return unix.ETIMEDOUT
}
