package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const unused = "nothing in this version; egress by tunnel will need it"

// bpfAttach loads a program that lets everything pass and attaches it to an empty cgroup of its own.
func bpfAttach() Row {
	const feature = "BPF on cgroups"
	_, unified := cgroupMode()
	if unified == "" {
		return degraded(feature, "no cgroup v2 hierarchy to attach to", unused, "mount cgroup2, hybrid or alone")
	}
	if err := attach(unified); err != nil {
		return degraded(feature, err.Error(), unused, "a kernel with CONFIG_CGROUP_BPF, and CAP_BPF or root")
	}
	return ok(feature, "a program attaches to a cgroup of "+unified)
}

func attach(unified string) (err error) {
	dir := filepath.Join(unified, fmt.Sprintf("forefend-doctor-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program: %w", err)
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetEgress, Program: program})
	if err != nil {
		return fmt.Errorf("attach a program: %w", err)
	}
	return l.Close()
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
