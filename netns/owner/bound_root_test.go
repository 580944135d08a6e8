package owner

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/network"
)

// loopback is the index of lo in every namespace.
const loopback = 1

// dial connects within a namespace, by a socket that is bound to a device; "" is none.
func dial(t testing.TB, ns *enter.Namespace, device, to string) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if device == "" {
			return nil
		}
		if failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device) }); failed != nil {
			return failed
		}
		return err
	}}
	var c net.Conn
	if err := ns.Do(func() (err error) {
		c, err = d.DialContext(context.Background(), "tcp", to)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestRootBound counts connections by a device, however many, and says how long nothing has passed by them.
func TestRootBound(t *testing.T) {
	ns := newNamespace(t)
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", ":7777")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go network.Serve(l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	look := func() Load {
		t.Helper()
		load, err := Bound(ns, loopback)
		if err != nil {
			t.Fatal(err)
		}
		return load
	}
	if got := look(); got.Connections != 0 {
		t.Errorf("nobody is bound: %+v", got)
	}
	dial(t, ns, "", "127.0.0.1:7777")
	if got := look(); got.Connections != 0 {
		t.Errorf("a connection that is bound to nothing: %+v", got)
	}
	const many = 300 // more than one message has room for
	var all []net.Conn
	for i := range many {
		all = append(all, dial(t, ns, "lo", []string{"127.0.0.1:7777", "[::1]:7777"}[i%2]))
	}
	if got := look(); got.Connections != many {
		t.Errorf("%d connections are bound: %+v", many, got)
	}
	if got, err := Bound(ns, loopback+1); err != nil || got.Connections != 0 {
		t.Errorf("by another device: %+v, %v", got, err)
	}
	if got, err := Bound(newNamespace(t), loopback); err != nil || got.Connections != 0 {
		t.Errorf("in another namespace: %+v, %v", got, err)
	}

	const tick = 20 * time.Millisecond // of the kernel's clock, and some
	begun := time.Now()
	b := make([]byte, 1)
	if _, err := all[7].Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(all[7], b); err != nil {
		t.Fatal(err)
	}
	for passed := time.Now(); time.Since(passed) < 10*tick; {
		least := time.Since(passed)
		got := look()
		if most := time.Since(begun); got.Quiet < least-tick || got.Quiet > most+tick {
			t.Errorf("quiet for %s, where it is %s to %s", got.Quiet, least, most)
		}
	}

	// Both ends of each learn that it has ended, and nobody else.
	other := dial(t, ns, "", "127.0.0.1:7777")
	if n, err := CutBound(ns, loopback+1); n != 0 || err != nil {
		t.Errorf("by another device %d ended, %v", n, err)
	}
	if n, err := CutBound(ns, loopback, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()); n != 0 || err != nil {
		t.Errorf("%d from addresses that are kept ended, %v", n, err)
	}
	if n, err := CutBound(ns, loopback, netip.IPv6Loopback()); n != many/2 || err != nil {
		t.Errorf("%d of %d over IPv4 ended, %v", n, many/2, err)
	}
	if n, err := CutBound(ns, loopback); n != many/2 || err != nil {
		t.Errorf("%d of the other %d ended, %v", n, many/2, err)
	}
	for _, c := range all {
		if n, err := c.Read(b); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%d bytes of a connection that was ended, %v", n, err)
		}
	}
	if _, err := other.Write(b); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(other, b); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if n, err := CutBound(ns, loopback); n != 0 || err != nil {
		t.Errorf("once more %d ended, %v", n, err)
	}
	for end := time.Now().Add(time.Minute); look().Connections > 0; time.Sleep(tick) {
		if time.Now().After(end) {
			t.Fatalf("%+v are left, and all were ended", look())
		}
	}
}
