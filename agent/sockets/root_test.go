package sockets

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// TestRootFind: the kernel tells exactly whose socket it is that has two ends, connected or not, of both families.
func TestRootFind(t *testing.T) {
	root.Test(t)
	ns := network.Of(t)
	group, err := cgroup.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want, err := group.ID()
	if err != nil {
		t.Fatal(err)
	}
	var table *Table
	var l net.Listener
	if err := ns.Do(func() (err error) {
		if err := network.Up("lo"); err != nil {
			return err
		}
		if l, err = net.Listen("tcp", ":7777"); err != nil {
			return err
		}
		table, err = Open()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer table.Close()
	for _, at := range []string{"127.0.0.1:7777", "[::1]:7777"} {
		remote := netip.MustParseAddrPort(at)
		for _, network := range []string{"tcp", "udp", "unconnected"} {
			var local netip.AddrPort
			if err := ns.Do(func() error {
				if network == "unconnected" { // of both families, as resolvers of some languages have it
					c, err := net.ListenUDP("udp", nil)
					if err != nil {
						return err
					}
					t.Cleanup(func() { _ = c.Close() })
					local = netip.AddrPortFrom(remote.Addr(), c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
					return nil
				}
				c, err := net.Dial(network, at)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = c.Close() })
				local = netip.MustParseAddrPort(c.LocalAddr().String())
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			kind := network
			if kind == "unconnected" {
				kind = "udp"
			}
			if s, err := table.Find(kind, local, remote); err != nil || s.Cgroup != want || s.Inode == 0 {
				t.Errorf("%s of %s to %s: %+v, %v, want of cgroup %d", network, local, remote, s, err, want)
			}
			other := netip.AddrPortFrom(local.Addr(), local.Port()^1)
			if s, err := table.Find(kind, other, remote); !errors.Is(err, unix.ENOENT) {
				t.Errorf("%s of %s, which is nobody's: %+v, %v", network, other, s, err)
			}
		}
	}
	if dir, err := cgroup.ByID(want); err != nil || !group.Holds(dir) {
		t.Errorf("the cgroup with the id %d: %s, %v, not %s", want, dir, err, group.Unified)
	}
	if _, err := cgroup.ByID(1 << 40); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("a cgroup that never was: %v", err)
	}
}
