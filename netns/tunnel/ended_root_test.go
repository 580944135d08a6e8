package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
)

// TestRootFarEnd: whichever way a connection by OpenVPN is ended from here, the server at its far end learns of it by a reset, through the tunnel.
func TestRootFarEnd(t *testing.T) {
	if !onNode(t) {
		return
	}
	v := newVPN(t)
	learned := make(chan error, 2)
	if err := v.behind.Do(func() error { return told(t, ":7777", learned) }); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, t.TempDir(), v.tunnel(t, "vpn", 1, 0))
	c := newGuarded(t, s)
	way, err := s.Attach(t.Context(), api.AttachRequest{Namespace: c.namespace, Profile: flow.Profile{Encryption: flow.Standard}})
	if err != nil {
		t.Fatal(err)
	}
	sp, err := s.find(c.namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		what string
		do   func(net.Conn) error
	}{
		{"the connection is cut", func(conn net.Conn) error {
			v := flow.Verdict{Tunnel: "vpn", Protocol: unix.IPPROTO_TCP, Local: portOf(conn.LocalAddr()), Remote: portOf(conn.RemoteAddr())}
			if sp.punish(t.Context(), &v); !v.Cut {
				return errors.New("it is not there")
			}
			return nil
		}},
		{"the tunnel is taken away", func(net.Conn) error { return s.Reload(t.Context(), nil) }},
	} {
		conn, _, _, err := c.dialTo(t, wayOf(way), behindVPN)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := end.do(conn); err != nil {
			t.Fatalf("%s: %v", end.what, err)
		}
		select {
		case err := <-learned:
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%s: the server learned %v, wanted a reset", end.what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s: the server has not learned of it", end.what)
		}
	}
}

func portOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// told serves connections that say as whom they come, and tells how they end.
func told(t testing.TB, at string, learned chan<- error) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = l.Close() })
	go network.Serve(l, func(c net.Conn) {
		_, _ = fmt.Fprintln(c, c.RemoteAddr())
		_, err := io.Copy(io.Discard, c)
		learned <- err
	})
	return nil
}
