package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/vm/wire"
)

// point is one mount.
type point struct {
	source, target, kind, data string
	flags                      uintptr
}

const cgroupRoot = "/sys/fs/cgroup"

var (
	early = []point{
		{"proc", "/proc", "proc", "", 0},
		{"sys", "/sys", "sysfs", "", 0},
		{"dev", "/dev", "devtmpfs", "mode=755", 0},
	}
	// The host's files below, the guest's memory above: what is written is gone with the machine.
	root = []point{
		{RootTag, "/lower", "virtiofs", "", unix.MS_RDONLY},
		{"upper", "/upper", "tmpfs", "size=75%,mode=755", 0},
	}
	late = []point{
		{"proc", "/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sys", "/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"dev", "/dev", "devtmpfs", "mode=755", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"shm", "/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"mqueue", "/dev/mqueue", "mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"run", "/run", "tmpfs", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
		{"cgroup2", cgroupRoot, "cgroup2", "nsdelegate,memory_recursiveprot", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"bpf", "/sys/fs/bpf", "bpf", "mode=700", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"debugfs", "/sys/kernel/debug", "debugfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tracefs", "/sys/kernel/tracing", "tracefs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"securityfs", "/sys/kernel/security", "securityfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	}
)

func mountAll(points []point) error {
	for _, p := range points {
		if err := mount(p); err != nil {
			return err
		}
	}
	return nil
}

func mount(p point) error {
	if err := os.MkdirAll(p.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(p.source, p.target, p.kind, p.flags, p.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", p.kind, p.target, err)
	}
	return nil
}

// furnish makes the machine one that r can be run on.
func furnish(r wire.Request) error {
	if err := switchRoot(r); err != nil {
		return err
	}
	if err := mountAll(late); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	// The node by which the kernel finds the module of tunnels, as systemd-tmpfiles makes it.
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	if err := scratch(r.Scratch, hostsTemporary(r)); err != nil {
		return err
	}
	modules := filepath.Join("/lib/modules", filepath.Base(r.Modules))
	if err := mount(point{r.Modules, modules, "", "", unix.MS_BIND}); err != nil {
		return err
	}
	if err := enableControllers(); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: 1 << 16, Max: 1 << 19} // systemd's for a service
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	return unix.Sethostname([]byte("vm"))
}

// switchRoot makes the overlay of the host's files the root of this process, and of all it will start.
func switchRoot(r wire.Request) error {
	if err := mountAll(root); err != nil {
		return err
	}
	for _, dir := range []string{"/upper/data", "/upper/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	overlay := point{"overlay", "/root", "overlay", "lowerdir=" + filepath.Join("/lower", r.Root) + ",upperdir=/upper/data,workdir=/upper/work,xino=off", 0}
	if err := mount(overlay); err != nil {
		return err
	}
	if r.Root != "" {
		if err := mount(point{filepath.Join("/lower", r.Visible), filepath.Join("/root", r.Visible), "", "", unix.MS_BIND}); err != nil {
			return err
		}
	}
	// The initial RAM disk cannot be unmounted or pivoted from: the new root is moved over it.
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount("/root", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// scratch puts temporary files, and containerd's data, where an overlay can be made: on the disk, or else in memory.
// What the request needs of the host's own /tmp stays to be seen there.
func scratch(disk bool, kept []string) error {
	held := func(i int) string { return fmt.Sprintf("/run/host-tmp-%d", i) }
	for i, dir := range kept {
		if err := mount(point{dir, held(i), "", "", unix.MS_BIND}); err != nil {
			return err
		}
	}
	p := point{"tmp", "/tmp", "tmpfs", "mode=1777", 0}
	if disk {
		p = point{"/dev/vda", "/tmp", "ext4", "nobarrier", unix.MS_NOATIME}
	}
	if err := mount(p); err != nil {
		return err
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	for i, dir := range kept {
		if err := mount(point{held(i), dir, "", "", unix.MS_BIND}); err != nil {
			return err
		}
	}
	own := "/tmp/.containerd"
	if err := os.Mkdir(own, 0o711); err != nil {
		return err
	}
	return mount(point{own, "/var/lib/containerd", "", "", unix.MS_BIND})
}

// hostsTemporary lists the directories directly below /tmp in which something lies that r names: a repository that was cloned
// there, for one.
func hostsTemporary(r wire.Request) []string {
	named := []string{r.Modules, r.Visible}
	for _, s := range r.Steps {
		named = append(append(named, s.Dir), s.Args...)
	}
	var dirs []string
	for _, path := range named {
		below, ok := strings.CutPrefix(filepath.Clean(path), "/tmp/")
		top, _, _ := strings.Cut(below, "/")
		if dir := "/tmp/" + top; ok && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// enableControllers hands every controller on to the groups of the first level, as an init system does.
func enableControllers() error {
	have, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(have)) {
		if err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable controller %s: %w", c, err)
		}
	}
	return nil
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// The kernel gives it its addresses a moment later.
	for range 100 {
		if addrs, err := net.InterfaceAddrs(); err == nil && len(addrs) > 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the loopback device has no address")
}
