package mounts

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// view is a thread inside a container's mount namespace.
type view struct {
	proc, home  int // descriptors: the host's /proc and mount namespace,
	space, root int // and the container's mount namespace and root
	table       []mount
}

// inside takes the calling thread, which must be one of package enter's, into the mount namespace of a process. leave is to be called also
// after an error.
func inside(pid int) (*view, error) {
	v := &view{proc: -1, home: -1, space: -1, root: -1}
	return v, v.enter(pid)
}

func (v *view) enter(pid int) (err error) {
	if v.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	if v.home, err = unix.Openat(v.proc, "thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("mount namespace of the host: %w", err)
	}
	if v.space, err = unix.Openat(v.proc, strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	var own, its unix.Stat_t
	if err := errors.Join(unix.Fstat(v.home, &own), unix.Fstat(v.space, &its)); err != nil {
		return fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	if own.Ino == its.Ino {
		return fmt.Errorf("the container is in the host's mount namespace, its files are the host's: %w", errdefs.ErrFailedPrecondition)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare(CLONE_FS): %w", err)
	}
	if err := unix.Setns(v.space, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace of process %d: %w", pid, err)
	}
	if v.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	return v.read()
}

// leave takes the thread back and reports whether that worked.
func (v *view) leave() bool {
	home := v.home < 0 || unix.Setns(v.home, unix.CLONE_NEWNS) == nil
	for _, fd := range []int{v.root, v.space, v.home, v.proc} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return home
}

// outside runs f in the host's mount namespace, or in one that f makes.
func (v *view) outside(f func() error) error {
	if err := unix.Setns(v.home, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leave the container's mount namespace: %w", err)
	}
	err := f()
	if back := unix.Setns(v.space, unix.CLONE_NEWNS); back != nil {
		return errors.Join(err, fmt.Errorf("enter the container's mount namespace again: %w", back))
	}
	return err
}

// read reads the mount table anew. The thread's own is the container's.
func (v *view) read() error {
	fd, err := unix.Openat(v.proc, "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the mount table: %w", err)
	}
	f := os.NewFile(uintptr(fd), "mountinfo")
	defer f.Close()
	v.table, err = readTable(f)
	return err
}

// tries is how often a walk is begun anew that a container interfered with.
const tries = 64

// open walks a path with the container's root as the root of the walk.
func (v *view) open(path string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve}
	for n := 1; ; n++ {
		fd, err := unix.Openat2(v.root, path, &how)
		if (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) && n < tries {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return -1, fmt.Errorf("%s: the container keeps renaming what leads there: %w: %w", path, err, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return -1, fmt.Errorf("%s: %w", path, lacking("openat2", "5.6", err))
		}
		return fd, nil
	}
}

// target is a file of the container that a descriptor holds.
type target struct {
	path      string // by which it was found
	fd        int
	mount     uint64
	mountRoot bool // it is where its mount begins
	dir       bool
	null      bool // the device of /dev/null
}

func (v *view) target(path string, resolve uint64) (target, error) {
	fd, err := v.open(path, resolve)
	if err != nil {
		return target{fd: -1}, err
	}
	t, err := describe(fd)
	t.path = path
	if err != nil {
		unix.Close(fd)
		return target{fd: -1}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// describe asks nothing of a file that its file system would have to ask a server for.
func describe(fd int) (target, error) {
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_MNT_ID, &s); err != nil {
		return target{}, err
	}
	if s.Mask&unix.STATX_MNT_ID == 0 || s.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return target{}, &UnsupportedError{"statx with STATX_MNT_ID", "5.8"}
	}
	return target{
		fd: fd, mount: s.Mnt_id, mountRoot: s.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		dir:  s.Mode&unix.S_IFMT == unix.S_IFDIR,
		null: s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Rdev_major == 1 && s.Rdev_minor == 3,
	}, nil
}

// at finds a mount by its number, wherever it is by now, and opens where it begins.
func (v *view) at(id uint64) (target, error) {
	for n := 1; ; n++ {
		m, ok := find(v.table, id)
		if !ok {
			return target{fd: -1}, errGone
		}
		t, err := v.target(m.point, unix.RESOLVE_NO_SYMLINKS)
		if err == nil && t.mount == id && t.mountRoot {
			return t, nil
		}
		if err == nil {
			unix.Close(t.fd)
			err = fmt.Errorf("%s lies under another mount: %w", m.point, errdefs.ErrFailedPrecondition)
		}
		if n == 4 {
			return target{fd: -1}, err
		}
		if err := v.read(); err != nil { // its directories may have been renamed
			return target{fd: -1}, err
		}
	}
}

// errGone means that a mount is not there any more: somebody in the container took it away.
var errGone = errors.New("mount is gone")

// where is the path of a descriptor as the container sees it.
func (v *view) where(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(v.proc, "thread-self/fd/"+strconv.Itoa(fd), buf)
	if err != nil {
		return "", fmt.Errorf("path of a descriptor: %w", err)
	}
	return string(buf[:n]), nil
}

// detach takes the topmost mount at t away. Nobody has to close anything first.
func (v *view) detach(t target) error {
	// umount2 takes no descriptor. The link of the host's /proc leads to where the descriptor is and nowhere else, and the
	// working directory is the thread's own.
	if err := unix.Fchdir(v.proc); err != nil {
		return fmt.Errorf("enter /proc: %w", err)
	}
	if err := unix.Unmount("thread-self/fd/"+strconv.Itoa(t.fd), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", t.path, err)
	}
	return nil
}
