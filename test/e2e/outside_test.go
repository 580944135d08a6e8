package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outside is the rest of the world as containers of a test see it: a network namespace with servers, and a link to each container.
type outside struct {
	ns    int
	links int
}

// Addresses outside: of the servers, and what else it answers to. Each container has a network of its own to it.
var worldAddresses = []string{"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "2001:db8:9::1"}

// worldPort is where it echoes, by TCP and UDP; mining pools have others, and contacts with those are a risk.
const worldPort = "4242"

func newOutside(t testing.TB) *outside {
	t.Helper()
	o := &outside{ns: -1}
	thread(t, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		o.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(o.ns) })
	o.in(t, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644); err != nil {
			return err
		}
		return addressed("lo", worldAddresses...)
	})
	for _, a := range worldAddresses {
		o.echo(t, a)
	}
	return o
}

// thread runs f on a thread that ends with it.
func thread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (o *outside) in(t testing.TB, f func() error) {
	t.Helper()
	thread(t, func() error {
		if err := unix.Setns(o.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// addressed brings a link up and gives it addresses.
func addressed(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range addrs {
		if !strings.Contains(a, "/") {
			a = fmt.Sprintf("%s/%d", a, netip.MustParseAddr(a).BitLen())
		}
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("%s on %s: %w", a, link, err)
		}
	}
	return nil
}

// link connects the network namespace of a process, and returns its address there.
func (o *outside) link(t testing.TB, pid int) string {
	t.Helper()
	o.links++
	name, here, there := fmt.Sprintf("out%d", o.links), fmt.Sprintf("10.98.%d.1", o.links), fmt.Sprintf("10.98.%d.2", o.links)
	here6, there6 := fmt.Sprintf("fd98:%x::1", o.links), fmt.Sprintf("fd98:%x::2", o.links)
	o.in(t, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return addressed(name, here+"/24", here6+"/64")
	})
	thread(t, func() error {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		err = errors.Join(addressed("lo"), addressed("eth0", there+"/24", there6+"/64"))
		for _, gw := range []string{here, here6} {
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}))
		}
		return err
	})
	return there
}

// echo serves at an address.
func (o *outside) echo(t testing.TB, addr string) {
	t.Helper()
	o.in(t, func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, worldPort))
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", net.JoinHostPort(addr, worldPort))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		t.Cleanup(func() { _, _ = l.Close(), p.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c) }()
			}
		}()
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
}
