package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernfsHandle is FILEID_KERNFS (include/linux/exportfs.h): a file handle that is the id of a cgroup, eight bytes long.
const kernfsHandle = 0xfe

// ID is the group's id in the v2 hierarchy, by which the kernel says in which one a socket was made.
func (g Group) ID() (uint64, error) {
	if g.Unified == "" {
		return 0, errors.ErrUnsupported // pure v1
	}
	info, err := os.Stat(g.Unified)
	if err != nil {
		return 0, fmt.Errorf("id of a cgroup: %w", err)
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// ByID is the directory in the v2 hierarchy of the cgroup with an id. The error wraps unix.ESTALE when it is gone.
func ByID(id uint64) (dir string, err error) {
	root := UnifiedRoot()
	if root == "" {
		return "", errors.ErrUnsupported
	}
	mount, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	defer unix.Close(mount)
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// Holds tells whether a directory of the v2 hierarchy is the group's, or below it.
func (g Group) Holds(dir string) bool {
	return g.Unified != "" && (dir == g.Unified || strings.HasPrefix(dir, g.Unified+"/"))
}
