package rootfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxNames bounds the names that List takes from one directory of one layer.
const MaxNames = 1 << 16

// Entry is a name in a directory.
type Entry struct {
	Name string
	Type fs.FileMode // type bits only
}

// List returns the entries of the directory that path names inside the container, sorted by name: what the layers
// have there together, without what is whited out. resolved is the directory's path without links. The error is as
// Lookup's; it wraps fs.ErrInvalid when path is no directory.
func (t Tree) List(name string) (entries []Entry, resolved string, err error) {
	w, err := t.walk()
	if err != nil {
		return nil, "", lookupError(name, err)
	}
	defer w.close()
	n, err := w.lookup(name)
	if err != nil {
		return nil, "", lookupError(name, err)
	}
	n.file.Close()
	if !n.info.IsDir() {
		return nil, "", lookupError(name, fs.ErrInvalid)
	}
	seen := make(map[string]bool)
	for _, layer := range n.below {
		found, err := w.list(layer, n.rel)
		if err != nil {
			return nil, "", lookupError(name, err)
		}
		for _, e := range found {
			if !seen[e.Name] {
				seen[e.Name] = true
				entries = append(entries, e)
			}
		}
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Type == hidden })
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, "/" + n.rel, nil
}

// hidden is the type that list gives to a whiteout: no file has it.
const hidden = fs.ModeType

// list reads one layer's part of a directory.
func (w *walker) list(layer int, rel string) ([]Entry, error) {
	if rel == "" {
		rel = "."
	}
	fd, err := openBeneath(w.layers[layer], rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	names, err := f.ReadDir(MaxNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	entries := make([]Entry, 0, len(names))
	for _, d := range names {
		e := Entry{Name: d.Name(), Type: d.Type()}
		if e.Type == fs.ModeDevice|fs.ModeCharDevice {
			var st unix.Stat_t
			if unix.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Rdev == 0 {
				e.Type = hidden
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}
