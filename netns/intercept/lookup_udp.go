package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/intercept/names"
)

// ListenPackets makes the sockets that queries for names are led to, on a port of 127.0.0.1 and ::1, and says by which it hears where
// they were going to. It needs CAP_NET_ADMIN. Where there is no IPv6, there is one.
func ListenPackets(port uint16) ([]*net.UDPConn, error) {
	v4, err := listenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port), [][2]int{
		{unix.SOL_IP, unix.IP_TRANSPARENT}, {unix.SOL_IP, unix.IP_RECVORIGDSTADDR},
	})
	if err != nil {
		return nil, err
	}
	v6, err := listenPacket("udp6", fmt.Sprintf("[::1]:%d", port), [][2]int{
		{unix.SOL_IPV6, unix.IPV6_TRANSPARENT}, {unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR},
	})
	switch {
	case err == nil:
		return []*net.UDPConn{v4, v6}, nil
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return []*net.UDPConn{v4}, nil
	}
	return nil, errors.Join(err, v4.Close())
}

func listenPacket(network, at string, options [][2]int) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			for _, o := range options {
				if failed = unix.SetsockoptInt(int(fd), o[0], o[1], 1); failed != nil {
					return
				}
			}
		})
		return errors.Join(err, failed)
	}}
	c, err := config.ListenPacket(context.Background(), network, at)
	if err != nil {
		return nil, fmt.Errorf("listen for queries: %w", err)
	}
	return c.(*net.UDPConn), nil
}

// ServePackets takes the queries that are led to a socket until Close, or until the socket fails.
func (e *Engine) ServePackets(l *net.UDPConn, p Packets) error {
	e.mu.Lock()
	e.packets = append(e.packets, l)
	closed := e.closed
	if !closed {
		e.running.Add(1)
	}
	e.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	defer e.running.Done()
	own := l.LocalAddr().(*net.UDPAddr).AddrPort()
	b, oob := make([]byte, names.MaxMessage), make([]byte, 256)
	for {
		n, m, _, from, err := l.ReadMsgUDPAddrPort(b, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			e.pause()
			continue
		}
		to := addressed(oob[:m])
		if !to.IsValid() || to == own { // nobody led it here
			e.count.direct.Add(1)
			continue
		}
		if !e.lookups.admit(e.settings.Load().pace()) {
			continue
		}
		select {
		case e.lookups.pend <- struct{}{}:
		default:
			e.lookups.dropped.Add(1)
			continue
		}
		q := datagram{e: e, by: l, over: p, from: from, to: to, b: append([]byte(nil), b[:n]...)}
		e.running.Go(func() {
			defer func() { <-e.lookups.pend }()
			q.container, _ = e.container("udp", from, to)
			q.serve()
		})
	}
}

// addressed is where a datagram was going to (struct sockaddr_in or sockaddr_in6, ip(7), ipv6(7)).
func addressed(oob []byte) (to netip.AddrPort) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return to
	}
	for i := range messages {
		sa, err := unix.ParseOrigDstAddr(&messages[i])
		if err != nil {
			continue
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
		}
	}
	return to
}

// datagram is a query on its way.
type datagram struct {
	e         *Engine
	container string // who sent it, of several
	by        *net.UDPConn
	over      Packets
	from, to  netip.AddrPort
	b         []byte
	charge    charge
}

func (q *datagram) settings() *Settings { return q.e.settings.Load().whose(q.container) }

func (q *datagram) serve() {
	l := &q.e.lookups
	l.askedBytes.Add(int64(len(q.b)))
	query, err := names.ReadQuery(q.b)
	if err != nil {
		l.malformed.Add(1)
		q.refuse(names.Malformed)
		return
	}
	for again := true; again; {
		again = q.pass(query)
	}
}

// pass decides about a query and does what was decided. again tells that the rules changed before it was sent.
func (q *datagram) pass(query names.Query) (again bool) {
	l, epoch := &q.e.lookups, q.e.epoch.Load()
	c, d, code := q.e.asked(q.settings(), query, q.to)
	if code != 0 {
		q.charge.back()
		q.refuse(code)
		return false
	}
	if limits := q.e.rates.of(d.Profile.Rates, c.User).ofRequests(); l.late(limits, q.charge) {
		q.charge.back()
		return false
	} else if !q.charge.take(limits, q.e.ctx.Done()) {
		return false
	}
	conn, err := q.over.DialPacket(q.e.ctx, c, d)
	if err == nil {
		defer conn.Close()
		if q.e.epoch.Load() != epoch {
			return true
		}
		err = q.relay(conn, query, c.Destination)
	}
	if err != nil {
		l.failed.Add(1)
		q.refuse(names.Failed)
	}
	return false
}

// relay asks a server, from a port of its own and by a number of its own, which nobody can guess who sees neither. An error says that nobody is
// there. A server that is silent is no error: clients ask again, as they would without us.
func (q *datagram) relay(conn Socket, query names.Query, server netip.AddrPort) error {
	stop := context.AfterFunc(q.e.ctx, func() { _ = conn.Close() })
	defer stop()
	counts := new(tally) // nobody's
	if conn.Receipts {
		counts = q.e.accounts.with(server, conn.Tunnel)
	}
	client := renumber(q.b)
	defer func() { binary.BigEndian.PutUint16(q.b, client) }()
	counts.sent.Add(uint64(len(q.b)))
	if _, err := conn.Write(q.b); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(answerWait))
	for {
		b, err := receive(conn.UDPConn)
		if err != nil {
			if isTimeout(err) || q.e.ctx.Err() != nil {
				return nil
			}
			return err
		}
		counts.received.Add(uint64(len(*b)))
		if query.Answers(q.b, *b) {
			answer := q.e.heard(q.settings(), *b, server) // it answers a query, so there is one
			binary.BigEndian.PutUint16(answer, client)
			q.answer(answer)
			messages.Put(b)
			return nil
		}
		messages.Put(b)
		q.e.lookups.forged.Add(1)
	}
}

// messages are room for an answer each. It is taken once the answer is there.
var messages = sync.Pool{New: func() any {
	b := make([]byte, names.MaxMessage)
	return &b
}}

// receive waits for a datagram and reads it; it goes back to messages. An empty one is one, too.
func receive(conn *net.UDPConn) (b *[]byte, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		room := messages.Get().(*[]byte)
		*room = (*room)[:cap(*room)]
		n, _, err := unix.Recvfrom(int(fd), *room, 0)
		if err == nil {
			*room = (*room)[:n]
			b = room
			return true
		}
		messages.Put(room)
		failed = err
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err == nil && b == nil {
		err = failed
	}
	return b, err
}

// refuse answers a query that does not pass.
func (q *datagram) refuse(code names.Code) {
	if b := names.Refuse(q.b, code); b != nil {
		q.answer(b)
	}
}

// answer sends an answer as the server that was asked: rules write its port.
func (q *datagram) answer(b []byte) {
	_, _, _ = q.by.WriteMsgUDPAddrPort(b, as(q.to.Addr()), q.from) // who does not hear asks again
}

// as is a control message that has a datagram sent from an address.
func as(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

// renumber gives a query a number by chance, and returns the one that it had.
func renumber(b []byte) (was uint16) {
	was = binary.BigEndian.Uint16(b)
	binary.BigEndian.PutUint16(b, uint16(rand.Uint32()))
	return was
}
