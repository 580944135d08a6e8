package intercept

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
)

// Way is a tunnel as the kernel knows it in this network namespace.
type Way struct {
	Tunnel string // its name
	Mark   uint32 // what its packets carry
	Device string // by which they leave; empty: by whatever the namespace's own routes say
}

// Ways finds tunnels, and attaches them on first use.
type Ways interface {
	Way(ctx context.Context, c flow.Context, d flow.Decision) (Way, error)
}

// Marked is a Dialer that opens its connections in this process' network namespace, each with its way's mark and bound to its
// device. It needs CAP_NET_ADMIN.
type Marked struct{ Ways Ways }

// Dial connects. Upstream.Verified says that the kernel has the socket as the way demands.
func (m Marked) Dial(ctx context.Context, c flow.Context, d flow.Decision) (Upstream, error) {
	way, err := m.Ways.Way(ctx, c, d)
	if err != nil {
		return Upstream{}, err
	}
	dialer := net.Dialer{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = way.take(int(fd)) }); err != nil {
			return err
		}
		return failed
	}}
	conn, err := dialer.DialContext(ctx, "tcp", c.Destination.String())
	if err != nil {
		return Upstream{}, fmt.Errorf("by tunnel %s: %w", way.Tunnel, err)
	}
	up := Upstream{Conn: conn.(*net.TCPConn), Tunnel: way.Tunnel}
	if raw, err := up.Conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { up.Verified = way.taken(int(fd)) }) // false if it is closed already
	}
	return up, nil
}

// take has a socket leave by the way.
func (w Way) take(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(w.Mark)); err != nil {
		return fmt.Errorf("mark of tunnel %s: %w", w.Tunnel, err)
	}
	if w.Device == "" {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, w.Device); err != nil {
		return fmt.Errorf("device of tunnel %s: %w", w.Tunnel, err)
	}
	return nil
}

// taken reads back what the kernel has.
func (w Way) taken(fd int) bool {
	mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil || uint32(mark) != w.Mark {
		return false
	}
	if w.Device == "" {
		return true
	}
	device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	return err == nil && device == w.Device
}
