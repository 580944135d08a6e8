// Package network makes network namespaces for root tests. No path names them: each is gone once it is closed and nothing runs
// in it any more.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// New makes a namespace with its loopback up, to be closed by the caller.
func New() (*enter.Namespace, error) {
	ns, err := enter.New()
	if err != nil {
		return nil, err
	}
	if err := ns.Do(func() error { return Up("lo") }); err != nil {
		return nil, errors.Join(fmt.Errorf("loopback of a new network namespace: %w", err), ns.Close())
	}
	return ns, nil
}

// Up brings a link of the thread's namespace up, and gives it addresses at once usable; without a length one is a host's.
func Up(link string, addresses ...string) error {
	l, err := netlink.LinkByName(link)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", link, err)
	}
	for _, a := range addresses {
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

// End is one end of a link.
type End struct {
	In        *enter.Namespace
	Name      string
	Addresses []string // as Up takes them
	Gateways  []string // of default routes
}

// Join links two namespaces.
func Join(a, b End) error {
	err := a.In.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Name}, PeerName: b.Name, PeerNamespace: netlink.NsFd(b.In.FD())})
	})
	if err != nil {
		return fmt.Errorf("link %s with %s: %w", a.Name, b.Name, err)
	}
	for _, e := range []End{a, b} {
		err := e.In.Do(func() error {
			err := Up(e.Name, e.Addresses...)
			for _, gateway := range e.Gateways {
				err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
