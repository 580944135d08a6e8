package scan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/scan/object"
	"forefend.dev/forefend/runtime/rootfs"
)

// maxText is how much of a script or configuration file is read.
const maxText = 4 << 20

// view is the root filesystem as the scan sees it. It remembers every question and its answer, so that a later scan can
// tell whether all answers would still be the same. It may be used from any goroutine.
type view struct {
	root rootfs.Tree

	mu     sync.Mutex // guards what follows
	asked  map[string]answer
	listed map[string][]rootfs.Entry
}

// answer is what a name leads to.
type answer struct {
	Resolved string
	Exists   bool
	Mode     fs.FileMode
	ID       identity
}

// identity is one state of one file.
type identity struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // ns
}

func newView(root rootfs.Tree) *view {
	return &view{root: root, asked: make(map[string]answer), listed: make(map[string][]rootfs.Entry)}
}

func look(root rootfs.Tree, name string) answer {
	for _, mounted := range []string{"/proc/", "/sys/", "/dev/"} { // of the container, not of the image
		if strings.HasPrefix(name, mounted) {
			return answer{}
		}
	}
	resolved, _, fi, err := root.Lookup(name)
	if err != nil {
		return answer{}
	}
	a := answer{resolved, true, fi.Mode(), identify(fi)}
	if fi.IsDir() { // its entries are another question
		a.ID = identity{}
	}
	return a
}

func identify(fi fs.FileInfo) identity {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// lookup follows name.
func (v *view) lookup(name string) (answer, bool) {
	v.mu.Lock()
	a, known := v.asked[name]
	v.mu.Unlock()
	if !known {
		a = look(v.root, name)
		v.mu.Lock()
		v.asked[name] = a
		v.mu.Unlock()
	}
	return a, a.Exists
}

// file is the regular file that name leads to.
func (v *view) file(name string) (resolved string, ok bool) {
	a, ok := v.lookup(name)
	return a.Resolved, ok && a.Mode.IsRegular()
}

// program is a file that may be executed.
func (v *view) program(name string) (resolved string, ok bool) {
	a, ok := v.lookup(name)
	return a.Resolved, ok && a.Mode.IsRegular() && a.Mode.Perm()&0o111 != 0
}

func (v *view) directory(name string) bool {
	a, ok := v.lookup(name)
	return ok && a.Mode.IsDir()
}

// list is the entries of a directory; none when there is no such directory.
func (v *view) list(name string) []rootfs.Entry {
	v.mu.Lock()
	entries, known := v.listed[name]
	v.mu.Unlock()
	if !known {
		entries, _, _ = v.root.List(name)
		v.mu.Lock()
		v.listed[name] = entries
		v.mu.Unlock()
	}
	return entries
}

// text reads the beginning of a file.
func (v *view) text(name string, most int64) ([]byte, error) {
	v.lookup(name) // so that a change of the file is noticed
	f, _, err := v.root.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// mapped calls fn with the content of a file, which is mapped meanwhile and must not be kept.
func (v *view) mapped(name string, fn func([]byte) error) error {
	v.lookup(name)
	f, _, err := v.root.OpenFile(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return mapFile(f, fn)
}

func mapFile(f *os.File, fn func([]byte) error) error {
	fi, err := f.Stat()
	switch {
	case err != nil:
		return err
	case fi.Size() == 0:
		return fn(nil)
	case fi.Size() > object.MaxSize:
		return fmt.Errorf("%d bytes are more than %d: %w", fi.Size(), object.MaxSize, errors.ErrUnsupported)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	defer unix.Munmap(data) //nolint:errcheck // it was mapped
	return fn(data)
}

// which finds a program by name as execvp does.
func (v *view) which(name string, dirs []string) (string, bool) {
	if strings.Contains(name, "/") {
		resolved, ok := v.program(name)
		return resolved, ok
	}
	if name == "" || len(name) > 255 {
		return "", false
	}
	for _, dir := range dirs {
		if resolved, ok := v.program(path.Join(dir, name)); ok {
			return resolved, true
		}
	}
	return "", false
}

var elfMagic = []byte("\x7fELF")

func isELF(head []byte) bool { return bytes.HasPrefix(head, elfMagic) }
