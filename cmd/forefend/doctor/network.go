package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/gate"
)

// bpfAttach shuts an empty cgroup of its own, with all that a container's gate is made of.
func bpfAttach() Row {
	const feature, cost = "BPF on cgroups", "networks of running containers cannot be switched off or restricted, threat feeds are not enforced; network = off at a container's start still works"
	_, unified := cgroupMode()
	if unified == "" {
		return degraded(feature, "no cgroup v2 hierarchy to attach to", cost, "mount cgroup2, hybrid or alone")
	}
	if err := attach(unified); err != nil {
		return degraded(feature, err.Error(), cost, "a kernel from 5.9 with CONFIG_CGROUP_BPF, and CAP_BPF with CAP_NET_ADMIN and CAP_SYS_ADMIN, or root")
	}
	return ok(feature, "a container's gate works in a cgroup of "+unified)
}

func attach(unified string) (err error) {
	dir := filepath.Join(unified, fmt.Sprintf("forefend-doctor-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	return gate.Try(dir)
}

// wireGuard makes a device in a network namespace that ends with the probe's thread.
func wireGuard() Row {
	const feature = "kernel WireGuard"
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "forefend0"}})
	})
	if err != nil {
		return degraded(feature, err.Error(), "nothing in this version; tunnels will run in user space, slower", "modprobe wireguard, or a kernel with CONFIG_WIREGUARD")
	}
	return ok(feature, "a device can be made")
}
