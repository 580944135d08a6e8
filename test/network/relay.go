package network

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"forefend.dev/forefend/netns/enter"
)

// Relay makes a TCP port of this process's loopback lead to an address of a namespace, until stop. Connections live on after it.
func Relay(to *enter.Namespace, address string) (at netip.AddrPort, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return at, nil, err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go pipe(near, to, address)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort(), func() { _ = l.Close() }, nil
}

func pipe(near net.Conn, to *enter.Namespace, address string) {
	defer near.Close()
	far, err := dialIn(to, "tcp", address)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}

func dialIn(ns *enter.Namespace, network, address string) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.Dial(network, address)
		return err
	})
	return c, err
}

// RelayUDP is Relay for datagrams. After stop none passes any more, as if the machine had left that address.
func RelayUDP(to *enter.Namespace, address string) (at netip.AddrPort, stop func(), err error) {
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return at, nil, err
	}
	r := &datagrams{near: near, far: make(map[netip.AddrPort]net.Conn)}
	go r.run(to, address)
	return near.LocalAddr().(*net.UDPAddr).AddrPort(), r.stop, nil
}

// datagrams relays between one socket here, and one there for each address that sends to it.
type datagrams struct {
	near *net.UDPConn

	mu      sync.Mutex
	far     map[netip.AddrPort]net.Conn // guarded by mu
	stopped bool                        // guarded by mu
}

func (r *datagrams) run(to *enter.Namespace, address string) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := r.near.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if far := r.to(from, to, address); far != nil {
			_, _ = far.Write(b[:n]) // what is lost is sent again by who sent it
		}
	}
}

// to is the socket for what comes from an address, nil if there can be none.
func (r *datagrams) to(from netip.AddrPort, ns *enter.Namespace, address string) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	far := r.far[from]
	if far != nil || r.stopped {
		return far
	}
	far, err := dialIn(ns, "udp", address)
	if err != nil {
		return nil
	}
	r.far[from] = far
	go r.back(far, from)
	return far
}

func (r *datagrams) back(far net.Conn, to netip.AddrPort) {
	b := make([]byte, 1<<16)
	for {
		n, err := far.Read(b)
		if err != nil && !r.running() {
			return
		}
		if err == nil { // else nobody listens there: the datagram is lost, as on any path
			_, _ = r.near.WriteToUDPAddrPort(b[:n], to)
		}
	}
}

func (r *datagrams) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.stopped
}

func (r *datagrams) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	_ = r.near.Close()
	for _, c := range r.far {
		_ = c.Close()
	}
}
