package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
)

// Way is a tunnel as the kernel knows it in this network namespace.
type Way struct {
	Tunnel string // its name
	Mark   uint32 // what its packets carry
	Device string // by which they leave; empty: by whatever the namespace's own routes say
	// Receipts says that the tunnel's gateway gives receipts of what went through.
	Receipts bool
}

// Ways finds tunnels, and attaches them on first use.
type Ways interface {
	Way(ctx context.Context, c flow.Context, d flow.Decision) (Way, error)
}

// Marked is a Dialer that opens its connections in this process' network namespace, each with its way's mark and bound to its
// device. It needs CAP_NET_ADMIN.
type Marked struct{ Ways Ways }

// Dial connects. A socket that the kernel has not as the way demands, by what it reads back, is an error, so Upstream.Verified holds.
func (m Marked) Dial(ctx context.Context, c flow.Context, d flow.Decision) (Upstream, error) {
	conn, way, err := m.dial(ctx, "tcp", c, d)
	if err != nil {
		return Upstream{}, err
	}
	return Upstream{Conn: conn.(*net.TCPConn), Tunnel: way.Tunnel, Verified: true, Receipts: way.Receipts}, nil
}

// DialPacket implements Packets.
func (m Marked) DialPacket(ctx context.Context, c flow.Context, d flow.Decision) (Socket, error) {
	conn, way, err := m.dial(ctx, "udp", c, d)
	if err != nil {
		return Socket{}, err
	}
	return Socket{UDPConn: conn.(*net.UDPConn), Tunnel: way.Tunnel, Receipts: way.Receipts}, nil
}

func (m Marked) dial(ctx context.Context, network string, c flow.Context, d flow.Decision) (net.Conn, Way, error) {
	way, err := m.Ways.Way(ctx, c, d)
	if err != nil {
		return nil, way, err
	}
	dialer := net.Dialer{KeepAlive: -1, Control: func(family, _ string, raw syscall.RawConn) error {
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = errors.Join(way.take(int(fd)), class(int(fd), family, d.Profile.QoS)) }); err != nil {
			return err
		}
		return failed
	}}
	conn, err := dialer.DialContext(ctx, network, c.Destination.String())
	if err != nil {
		return nil, way, fmt.Errorf("by tunnel %s: %w", way.Tunnel, err)
	}
	if err := way.check(conn.(syscall.Conn)); err != nil {
		return nil, way, errors.Join(fmt.Errorf("by tunnel %s: %w", way.Tunnel, err), conn.Close())
	}
	return conn, way, nil
}

// class writes the code point of a QoS class on what a socket sends. family is package net's, with a 6 for IPv6.
func class(fd int, family, qos string) error {
	if qos == "" {
		return nil // as the application's packets are, which nobody has told
	}
	level, option := unix.IPPROTO_IP, unix.IP_TOS
	if strings.HasSuffix(family, "6") {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	if err := unix.SetsockoptInt(fd, level, option, int(flow.DSCP(qos))<<2); err != nil {
		return fmt.Errorf("QoS class %s: %w", qos, err)
	}
	return nil
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

// check reads back what the kernel has.
func (w Way) check(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	taken := false
	if err := raw.Control(func(fd uintptr) { taken = w.taken(int(fd)) }); err != nil {
		return err
	}
	if !taken {
		return fmt.Errorf("the kernel does not have the connection on device %q with mark %#x", w.Device, w.Mark)
	}
	return nil
}

// taken tells whether a socket has the way's mark and device.
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
