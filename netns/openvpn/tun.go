package openvpn

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/runtime/record"
)

// prefix begins the names of TUNs that are about to be connected, in this process's network.
const prefix = "ffv"

// aliasPrefix begins the alias that says whose such a TUN is.
const aliasPrefix = "forefend tunneld "

func whose(pid int, start uint64) string { return fmt.Sprintf("%s%d %d", aliasPrefix, pid, start) }

// newTUN makes a TUN in this process's network that stays until it is removed, and that one user may open.
func newTUN(uid uint32) (name string, err error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	name = prefix + hex.EncodeToString(b[:])
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return "", fmt.Errorf("make a TUN: %w", err)
	}
	start, err := record.Start(os.Getpid())
	if err != nil {
		return "", err
	}
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetAlias(l, whose(os.Getpid(), start))
	}
	if err == nil {
		err = errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(uid)), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
	}
	if err != nil {
		return "", fmt.Errorf("make a TUN for openvpn: %w", err)
	}
	return name, nil
}

// move takes a TUN from one namespace to another, where it has another name. nil is this process's own. It has the index where the kernel
// can give that (Linux 5.13) and it is free; 0 leaves the choice to the kernel.
func move(from *enter.Namespace, name string, to *enter.Namespace, as string, index int) error {
	return within(from, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("TUN %s: %w", name, err)
		}
		err = transfer(l.Attrs().Index, to, as, index)
		if index != 0 && errors.Is(err, unix.EBUSY) {
			err = transfer(l.Attrs().Index, to, as, 0)
		}
		if err != nil {
			return fmt.Errorf("move a TUN to another network: %w", err)
		}
		return nil
	})
}

// transfer moves a device of this thread's namespace. Name and index come with the move: those it had could be another one's there.
func transfer(device int, to *enter.Namespace, name string, index int) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(device)
	request.AddData(info)
	request.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.FD()))))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if index != 0 {
		request.AddData(nl.NewRtAttr(unix.IFLA_NEW_IFINDEX, nl.Uint32Attr(uint32(index))))
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// within runs f in a namespace; nil is this process's own.
func within(ns *enter.Namespace, f func() error) error {
	if ns == nil {
		return f()
	}
	return ns.Do(f)
}

// removeTUN removes a TUN that may be gone, with the namespace even.
func removeTUN(in *enter.Namespace, name string) error {
	return within(in, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("remove TUN %s: %w", name, err)
		}
		return nil
	})
}

// Sweep removes the TUNs that processes which have ended left in this process's network.
func Sweep() error {
	links, err := link.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("links of the node: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		who, ours := strings.CutPrefix(a.Alias, aliasPrefix)
		if !ours || !strings.HasPrefix(a.Name, prefix) || alive(who) {
			continue
		}
		errs = append(errs, removeTUN(nil, a.Name))
	}
	return errors.Join(errs...)
}

// alive tells whether the process of an alias still runs.
func alive(who string) bool {
	pid, start, _ := strings.Cut(who, " ")
	n, err := strconv.Atoi(pid)
	if err != nil {
		return true // another release's, which is not ours to remove
	}
	found, err := record.Start(n)
	return err == nil && strconv.FormatUint(found, 10) == start
}
