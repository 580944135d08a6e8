package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
)

// Serve has each connection served, and closed then, until l is closed.
func Serve(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

// Echo answers each connection with a line that has the address it came from, and then with what it is sent, until l is closed.
func Echo(l net.Listener) {
	Serve(l, func(c net.Conn) {
		if _, err := fmt.Fprintln(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap()); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
}

// Bounce sends n bytes to one who sends back what it is sent, wants them to come by r, which reads from c, and returns how many did.
func Bounce(t testing.TB, c net.Conn, r io.Reader, n int64) int {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, Zeroes{}, n)
		sent <- err
	}()
	got, err := io.CopyN(io.Discard, r, n)
	if err = errors.Join(err, <-sent); err != nil {
		t.Errorf("%d of %d bytes came back: %v", got, n, err)
	}
	return int(got)
}

// Zeroes reads as bytes without end.
type Zeroes struct{}

func (Zeroes) Read(b []byte) (int, error) { return len(b), nil }
