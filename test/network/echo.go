package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
)

// Echo answers each connection with a line that has the address it came from, and then with what it is sent, until l is closed.
func Echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := fmt.Fprintln(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap()); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}
