package mounts

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// attach lays a mount that is nowhere yet over a file, and returns its number. A mount that is private passes on nothing.
func attach(mnt int, over target) (uint64, error) {
	made, err := describe(mnt)
	if err != nil {
		return 0, err
	}
	if err := unix.MoveMount(mnt, "", over.fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return 0, fmt.Errorf("mount over %s: %w", over.path, err)
	}
	return made.mount, nil
}

// set changes flags of the mount that begins at fd.
func set(fd int, attr unix.MountAttr) error {
	return lacking("mount_setattr", "5.12", unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr))
}

// mask hides a file under an empty one, a directory under an empty one, as runc does.
func (t *transition) mask(p place, over target) error {
	if _, done := t.after[p]; done {
		return nil
	}
	var mnt int
	var err error
	if over.dir {
		mnt, err = emptyDir()
	} else {
		mnt, err = t.null()
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w", p.path, err)
	}
	defer unix.Close(mnt)
	id, err := attach(mnt, over)
	if err != nil {
		return err
	}
	t.put(p, layer{id: id}, func() error { return t.remove(id) })
	return nil
}

// emptyDir is a directory of its own, empty for good.
func emptyDir() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make an empty directory: %w", lacking("fsopen", "5.2", err))
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "source", "tmpfs"), unix.FsconfigSetString(fs, "mode", "0755"), unix.FsconfigSetFlag(fs, "ro"),
		unix.FsconfigCreate(fs)); err != nil {
		return -1, fmt.Errorf("make an empty directory: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make an empty directory: %w", err)
	}
	return mnt, nil
}

// null is a mount of the container's /dev/null, or of one made for the purpose where the container has spoilt its own. It
// is never the host's: the container's root could change its mode.
func (t *transition) null() (mnt int, err error) {
	if dev, err := t.target("/dev/null", unix.RESOLVE_NO_SYMLINKS); err == nil {
		defer unix.Close(dev.fd)
		if dev.null {
			return clone(dev.fd)
		}
	}
	err = t.outside(func() (err error) {
		mnt, err = ownNull()
		return err
	})
	return mnt, err
}

// clone is a private mount of one file or directory, without what is mounted below it.
func clone(fd int) (int, error) {
	mnt, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", lacking("open_tree", "5.2", err))
	}
	if err := set(mnt, unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		unix.Close(mnt)
		return -1, err
	}
	return mnt, nil
}

// ownNull makes a /dev/null in a mount namespace of the calling thread, which ends when that leaves it.
func ownNull() (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	if err := unix.Mount("tmpfs", "/proc", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=4k"); err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	const path = "/proc/null"
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a null device: %w", err)
	}
	defer unix.Close(fd)
	return clone(fd)
}

// remove takes a mount away that was laid over something.
func (t *transition) remove(id uint64) error {
	over, err := t.refind(id)
	if err != nil {
		return err
	}
	defer unix.Close(over.fd)
	return t.detach(over)
}

// refind is at with a fresh table.
func (t *transition) refind(id uint64) (target, error) {
	if err := t.read(); err != nil {
		return target{fd: -1}, err
	}
	return t.at(id)
}

func (t *transition) unmask(p place) error {
	l, ok := t.after[p]
	if !ok {
		return t.unnoted(p)
	}
	if err := t.remove(l.id); err != nil && !errors.Is(err, errGone) {
		return fmt.Errorf("uncover %s: %w", p.path, err)
	}
	t.take(p, func() error {
		over, err := t.target(p.path, 0)
		if err != nil {
			return err
		}
		defer unix.Close(over.fd)
		return t.mask(p, over)
	})
	return nil
}

// unnoted is about a path that is to be uncovered and has nothing over it that Forefend knows of. Most often it did not
// exist when the container was made, and runc left it out.
func (t *transition) unnoted(p place) error {
	found, err := t.target(p.path, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(found.fd)
	m, _ := find(t.table, found.mount)
	if found.mountRoot && (found.null || m.kind == "tmpfs" && m.readonly) {
		return fmt.Errorf("%s is covered by a mount that was not noted when the container was made (it leads through a link): %w", p.path, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// protect makes a path read-only: its mount, where one begins there, so that it holds for who has its working directory
// there as well; else a read-only mount of the same directory over it.
func (t *transition) protect(p place, at target) error {
	if _, done := t.after[p]; done {
		return nil
	}
	if masked, ok := t.after[place{hidden, p.path}]; ok && masked.id == at.mount {
		return fmt.Errorf("%s is hidden; what is under the cover cannot be reached: %w", p.path, errdefs.ErrFailedPrecondition)
	}
	if at.mountRoot {
		for _, l := range t.after {
			if l.id == at.mount { // the same directory by another name
				t.put(p, layer{id: at.mount, inPlace: true}, func() error { return nil })
				return nil
			}
		}
		if m, ok := find(t.table, at.mount); ok && m.readonly {
			return nil // it was mounted so, and nothing here will change that
		}
		err := set(at.fd, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err == nil {
			t.put(p, layer{id: at.mount, inPlace: true}, func() error {
				return set(at.fd, unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
			})
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("make %s read-only: %w", p.path, err)
		}
	}
	return t.overlay(p, at)
}

// overlay lays a read-only mount of a directory or file over itself.
func (t *transition) overlay(p place, at target) error {
	real, err := t.where(at.fd)
	if err != nil {
		return err
	}
	if m, ok := below(t.table, real); ok {
		return fmt.Errorf("%s has a mount below it (%s) that a read-only mount would hide: name the directories below instead: %w", p.path, m.point, errdefs.ErrFailedPrecondition)
	}
	mnt, err := clone(at.fd)
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", p.path, err)
	}
	defer unix.Close(mnt)
	if err := set(mnt, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make %s read-only: %w", p.path, err)
	}
	id, err := attach(mnt, at)
	if err != nil {
		return err
	}
	t.put(p, layer{id: id}, func() error { return t.remove(id) })
	return nil
}

// release makes a path as writable again as what is under its layer.
func (t *transition) release(p place) error {
	l, ok := t.after[p]
	if !ok {
		return nil // it was read-only by itself, or did not exist: it is what it would be without the policy
	}
	at, err := t.refind(l.id)
	if errors.Is(err, errGone) {
		t.take(p, nil)
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s writable: %w", p.path, err)
	}
	defer unix.Close(at.fd)
	if t.shared(p, l.id) {
		t.take(p, nil)
		return nil
	}
	m, _ := find(t.table, l.id)
	if under, ok := find(t.table, m.parent); l.inPlace || ok && !under.readonly {
		// Also where it is taken away: for processes that stand in it.
		if err := set(at.fd, unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make %s writable: %w", p.path, err)
		}
	}
	if !l.inPlace {
		if err := t.detach(at); err != nil {
			return err
		}
	}
	t.take(p, func() error {
		at, err := t.target(p.path, 0)
		if err != nil {
			return err
		}
		defer unix.Close(at.fd)
		if err := t.read(); err != nil {
			return err
		}
		return t.protect(p, at)
	})
	return nil
}

// shared reports whether the mount also is what makes another place read-only.
func (t *transition) shared(p place, id uint64) bool {
	for other, l := range t.after {
		if other != p && l.id == id {
			return true
		}
	}
	return false
}

// root switches the root file system between read-only and writable.
func (t *transition) root(readonly bool) error {
	at, err := describe(t.view.root)
	if err != nil {
		return err
	}
	m, ok := find(t.table, at.mount)
	if !ok {
		return errors.New("the container's root is not in its mount table")
	}
	if m.readonly == readonly {
		return nil
	}
	on, off := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if !readonly {
		on, off = off, on
	}
	if err := set(t.view.root, on); errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("the root file system cannot be made read-only while a file of it is open for writing: %w", err)
	} else if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the root file system is read-only for another user namespace, and stays that: %w: %w", err, errdefs.ErrFailedPrecondition)
	} else if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	t.undo = append(t.undo, func() error { return set(t.view.root, off) })
	var s unix.Statfs_t
	if err := unix.Fstatfs(t.view.root, &s); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if got := s.Flags&unix.ST_RDONLY != 0; got != readonly {
		return fmt.Errorf("the root file system itself is read-only, not only its mount (a snapshot that was made as a view): %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}
