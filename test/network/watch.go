package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// Watch has see called for each packet that a device of a namespace sends (outgoing) or is sent, without its link's header, from one
// goroutine. The packet is see's until it returns. stop ends that, and returns once see is not called any more.
func Watch(ns *enter.Namespace, device string, see func(packet []byte, outgoing bool)) (stop func(), err error) {
	fd := -1
	if err := ns.Do(func() (err error) {
		fd, err = packetSocket(device)
		return err
	}); err != nil {
		return nil, fmt.Errorf("watch %s: %w", device, err)
	}
	file := os.NewFile(uintptr(fd), "watch of "+device)
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", device, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1<<16)
		take := func(fd uintptr) (done bool) {
			n, from, err := unix.Recvfrom(int(fd), b, 0)
			if err == nil {
				l, ok := from.(*unix.SockaddrLinklayer)
				see(b[:n], ok && l.Pkttype == unix.PACKET_OUTGOING)
			}
			return err != unix.EAGAIN
		}
		for conn.Read(take) == nil { // until the file is closed
		}
	}()
	return func() {
		_ = file.Close()
		<-ended
	}, nil
}

// packetSocket is bound to a device of the thread's namespace, and sees all protocols.
func packetSocket(device string) (int, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	// Without a protocol it sees nothing until it is bound: other devices' packets never get in. A datagram socket sees no link's header.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
