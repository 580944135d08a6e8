package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"

	"forefend.dev/forefend/runtime/workload"
	"golang.org/x/sys/unix"
)

// Entries is what an overlay upper directory held at one moment: for each name
// a hash of path, inode, type, size and times.
type Entries struct {
	seen      map[uint64]struct{}
	truncated bool
}

// MaxEntries is a good bound for UpperEntries: after Create there are only
// the mount points that runc made.
const MaxEntries = 4096

// UpperEntries walks the overlay upper directory, at most `most` entries of it;
// truncated tells that there were more. Take it after Create, before Start.
func UpperEntries(upper string, most int) (e Entries, truncated bool, err error) {
	e.seen = make(map[uint64]struct{})
	err = walkUpper(upper, most, func(h uint64) bool {
		e.seen[h] = struct{}{}
		return true
	})
	if errors.Is(err, errTooMany) || errors.Is(err, errStopped) {
		e.truncated, err = true, nil
	}
	return e, e.truncated, err
}

// Wrote reports whether the root filesystem was written to between before and
// now: whether the upper directory has anything new, changed or gone. The walk
// ends at the first difference, so it is short when much was written. A file
// that was made and removed again counts: its directory changed.
// It is Unknown when before or the walk was cut short without a difference, and
// on errors.
func Wrote(before Entries, upper string) (workload.Tristate, error) {
	if before.seen == nil || before.truncated {
		return workload.Unknown, nil
	}
	same := 0
	err := walkUpper(upper, len(before.seen)+1, func(h uint64) bool {
		if _, ok := before.seen[h]; !ok {
			return false
		}
		same++
		return true
	})
	switch {
	case errors.Is(err, errStopped):
		return workload.Yes, nil
	case errors.Is(err, errTooMany):
		return workload.Unknown, nil
	case err != nil:
		return workload.Unknown, err
	case same != len(before.seen):
		return workload.Yes, nil
	}
	return workload.No, nil
}

var (
	errTooMany = errors.New("too many entries")
	errStopped = errors.New("stopped")
)

// walkUpper calls visit with the hash of the upper directory and of each name
// below it, until it returns false (errStopped) or there are more than most
// (errTooMany, also for paths longer than the kernel takes at once).
// Directories are read in batches and no link is followed.
func walkUpper(upper string, most int, visit func(hash uint64) bool) error {
	root, err := os.OpenFile(upper, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("walk the upper directory: %w", err)
	}
	defer root.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("walk the upper directory: %w", err)
	}
	if most < 1 {
		return errTooMany
	}
	if !visit(entryHash(".", &st)) {
		return errStopped
	}
	u := upperWalk{root: root, left: most - 1, visit: visit, todo: []string{"."}}
	for len(u.todo) > 0 {
		dir := u.todo[len(u.todo)-1]
		u.todo = u.todo[:len(u.todo)-1]
		if err := u.directory(dir); err != nil {
			return err
		}
	}
	return nil
}

type upperWalk struct {
	root  *os.File
	left  int // entries that may still come
	visit func(uint64) bool
	todo  []string // directories, relative to root
}

func (u *upperWalk) directory(dir string) error {
	fd, err := openBeneath(u.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.ENAMETOOLONG):
		return errTooMany
	case errors.Is(err, fs.ErrNotExist): // removed since its name was read
		return errStopped
	case err != nil:
		return fmt.Errorf("walk the upper directory: %w", err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if err := u.name(f, dir, name); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			return ignoreEOF(err)
		}
	}
}

func (u *upperWalk) name(parent *os.File, dir, name string) error {
	if u.left--; u.left < 0 {
		return errTooMany
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return errStopped
	}
	if err != nil {
		return fmt.Errorf("walk the upper directory: %w", err)
	}
	rel := path.Join(dir, name)
	if !u.visit(entryHash(rel, &st)) {
		return errStopped
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		u.todo = append(u.todo, rel)
	}
	return nil
}

func ignoreEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("walk the upper directory: %w", err)
}

// entryHash is one entry's state. The change time covers content, mode, owner
// and attributes; the access time is left out.
func entryHash(rel string, st *unix.Stat_t) uint64 {
	h := fnv.New64a()
	h.Write([]byte(rel))
	var buf [1 + 6*8]byte // the first byte ends rel
	for i, v := range []uint64{
		st.Ino, uint64(st.Mode), uint64(st.Size),
		uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()), uint64(st.Rdev),
	} {
		binary.LittleEndian.PutUint64(buf[1+8*i:], v)
	}
	h.Write(buf[:])
	return h.Sum64()
}
