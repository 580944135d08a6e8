package main

import (
	"bytes"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How often one client turns from one proxy to the next, in each round, and how many requests it makes there. What others do on the machine
// changes more from second to second than proxies differ: turns of some milliseconds meet the same.
const (
	latencyTurns    = 30
	latencyRequests = 100
	latencyWarm     = 5 // not counted
)

const latencyQuestion = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"

// egressLatency is the median latency of one client's requests to each port, in µs, turn by turn. Each port has one connection, which stays.
func egressLatency(ports []int) (of [][]float64, err error) {
	clients := make([]latencyClient, len(ports))
	for i, port := range ports {
		if clients[i].fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return nil, err
		}
		defer unix.Close(clients[i].fd)
		to := &unix.SockaddrInet4{Port: port, Addr: egressServerAddress.As4()}
		if err := unix.Connect(clients[i].fd, to); err != nil {
			return nil, fmt.Errorf("connect to port %d: %w", port, err)
		}
	}
	of = make([][]float64, len(ports))
	took := make([]float64, latencyRequests)
	for turn := range latencyTurns {
		for k := range ports {
			i := (turn + k) % len(ports) // none is always after the same one
			for j := -latencyWarm; j < latencyRequests; j++ {
				begin := time.Now()
				if err := clients[i].ask(); err != nil {
					return nil, fmt.Errorf("port %d: %w", ports[i], err)
				}
				if j >= 0 {
					took[j] = float64(time.Since(begin).Nanoseconds()) / 1e3
				}
			}
			of[i] = append(of[i], median(took))
		}
	}
	return of, nil
}

// latencyClient asks and waits in the kernel: Go's scheduler would be a good part of what is measured.
type latencyClient struct {
	fd int
	b  [4 << 10]byte
}

func (c *latencyClient) ask() error {
	if _, err := c.call(unix.SYS_WRITE, unsafe.Slice(unsafe.StringData(latencyQuestion), len(latencyQuestion))); err != nil {
		return err
	}
	for size, got := 0, 0; size == 0 || got < size; {
		n, err := c.call(unix.SYS_READ, c.b[got:])
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("no whole answer: %q", c.b[:got])
		}
		got += n
		if end := bytes.Index(c.b[:got], []byte("\r\n\r\n")); end >= 0 {
			if !bytes.HasPrefix(c.b[:], []byte("HTTP/1.1 200 ")) {
				return fmt.Errorf("%q", c.b[:got])
			}
			size = end + 4 + egressSmall
		}
	}
	return nil
}

func (c *latencyClient) call(what uintptr, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(what, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
