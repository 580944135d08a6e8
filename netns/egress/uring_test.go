package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers and structures of linux/io_uring.h, as far as one connect needs them.
const (
	uringConnect    = 16 // IORING_OP_CONNECT
	uringGetEvents  = 1  // IORING_ENTER_GETEVENTS
	uringOffSQ      = 0
	uringOffCQ      = 0x8000000
	uringOffSQEs    = 0x10000000
	uringSQESize    = 64
	uringSQRingSize = 4096
)

type uringOffsets struct{ head, tail, mask, entries, flags, dropped, array, resv1, resv2, resv3 uint32 }

// cqes is where completions are: what is dropped of the one ring is that of the other.
func (o uringOffsets) cqes() uint32 { return o.dropped }

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	resv                                                 [3]uint32
	sq, cq                                               uringOffsets
}

// uring connects by a ring that the kernel works off, without a connect of the process's own.
func uring(to netip.AddrPort, options map[string]string) (string, error) {
	var p uringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return "", fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	var maps [3][]byte
	for i, off := range []int64{uringOffSQ, uringOffCQ, uringOffSQEs} {
		m, err := unix.Mmap(int(ring), off, uringSQRingSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return "", fmt.Errorf("io_uring: %w", err)
		}
		defer unix.Munmap(m)
		maps[i] = m
	}
	sq, cq, sqes := maps[0], maps[1], maps[2]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "uring")
	defer f.Close()
	if err := configure(fd, options); err != nil {
		return "", err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1); err != nil { // three seconds without an answer
		return "", err
	}
	addr := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: to.Port()<<8 | to.Port()>>8, Addr: to.Addr().As4()}
	sqe := sqes[:uringSQESize]
	sqe[0] = uringConnect
	*(*int32)(unsafe.Pointer(&sqe[4])) = int32(fd)
	*(*uint64)(unsafe.Pointer(&sqe[8])) = uint64(unix.SizeofSockaddrInet4) // off: the address's length
	*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(uintptr(unsafe.Pointer(&addr)))
	*(*uint32)(unsafe.Pointer(&sq[p.sq.array])) = 0
	atomic.AddUint32((*uint32)(unsafe.Pointer(&sq[p.sq.tail])), 1)
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringGetEvents, 0, 0); errno != 0 {
		return "", fmt.Errorf("io_uring_enter: %w", errno)
	}
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.cq.tail]))) == 0 {
		return "", errors.New("io_uring: nothing is completed")
	}
	// Its struct io_uring_cqe: user_data, res, flags.
	if result := *(*int32)(unsafe.Pointer(&cq[p.cq.cqes()+8])); result < 0 {
		return "", unix.Errno(-result)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return hear(c)
}
