package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds of one lookup.
const (
	maxLinks  = 40   // as the kernel
	maxSteps  = 2048 // path components, those of links included
	maxLayers = 500  // as overlayfs
)

// Tree is the root filesystem that layers, topmost first, make together.
type Tree struct {
	layers []string
}

// Open returns the tree of layers. Nothing is opened yet; directories that do
// not exist have no names in them.
func Open(layers []string) Tree { return Tree{layers: layers} }

// Lookup finds what path names inside the container; relative paths start at
// its root. Symbolic links are followed inside the tree only, also the last
// one. resolved is the path without links, host where it is outside: for
// messages, since another may be there by the time it is used (see OpenFile). The
// error wraps fs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP, or
// errors.ErrUnsupported for overlay features that need the mounted filesystem.
func (t Tree) Lookup(name string) (resolved, host string, fi fs.FileInfo, err error) {
	w, err := t.walk()
	if err != nil {
		return "", "", nil, lookupError(name, err)
	}
	defer w.close()
	n, err := w.lookup(name)
	if err != nil {
		return "", "", nil, lookupError(name, err)
	}
	defer n.file.Close()
	return "/" + n.rel, filepath.Join(t.layers[n.layer], n.rel), n.info, nil
}

// OpenFile opens the regular file that path names inside the container for
// reading. What is not a regular file is an error and is not opened.
func (t Tree) OpenFile(name string) (f *os.File, resolved string, err error) {
	w, err := t.walk()
	if err != nil {
		return nil, "", lookupError(name, err)
	}
	defer w.close()
	n, err := w.lookup(name)
	if err != nil {
		return nil, "", lookupError(name, err)
	}
	defer n.file.Close()
	f, err = n.open()
	if err != nil {
		return nil, "", lookupError(name, err)
	}
	return f, "/" + n.rel, nil
}

func lookupError(name string, err error) error {
	return &fs.PathError{Op: "look up in the root filesystem", Path: fmt.Sprintf("%.256s", name), Err: err}
}

// walker resolves names in open layers.
type walker struct {
	layers []*os.File // nil where there is no such directory
}

func (t Tree) walk() (*walker, error) {
	if len(t.layers) > maxLayers {
		return nil, fmt.Errorf("%d layers, the most is %d", len(t.layers), maxLayers)
	}
	w := &walker{layers: make([]*os.File, len(t.layers))}
	for i, dir := range t.layers {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			w.close()
			return nil, err
		}
		w.layers[i] = f
	}
	return w, nil
}

func (w *walker) close() {
	for _, f := range w.layers {
		if f != nil {
			f.Close()
		}
	}
}

// node is something found. file is open with O_PATH only.
type node struct {
	rel   string // path without links and without leading slash
	layer int    // topmost layer that has it
	file  *os.File
	info  fs.FileInfo
	below []int // of a directory: all layers that take part in it, topmost first
}

// open reopens the very file that was examined, for reading.
func (n node) open() (*os.File, error) {
	if !n.info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %w", n.info.Mode().Type(), fs.ErrInvalid)
	}
	if ok, err := hasXattr(n.file, "trusted.overlay.metacopy"); ok || err != nil {
		return nil, errors.Join(err, fmt.Errorf("overlay metacopy: %w", errors.ErrUnsupported))
	}
	return os.OpenFile(procPath(n.file), unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// lookup follows name to its end. The stack holds the directories from the
// root to the present one, so that ".." needs no descriptor.
func (w *walker) lookup(name string) (node, error) {
	if len(name) > unix.PathMax {
		return node{}, unix.ENAMETOOLONG
	}
	stack := []node{{below: w.present()}}
	todo := name
	links := 0
	for range maxSteps {
		here := stack[len(stack)-1]
		if todo == "" {
			return w.find(here.rel, here.below)
		}
		var part string
		var slash bool // what part names must be a directory
		part, todo, slash = strings.Cut(todo, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		n, err := w.find(path.Join(here.rel, part), here.below)
		if err != nil {
			return node{}, err
		}
		switch n.info.Mode().Type() {
		case fs.ModeSymlink:
			target, err := readlink(n.file)
			n.file.Close()
			if links++; links > maxLinks {
				return node{}, unix.ELOOP
			}
			if err != nil {
				return node{}, err
			}
			if strings.HasPrefix(target, "/") {
				stack = stack[:1]
			}
			if slash {
				target += "/" + todo
			}
			todo = target
		case fs.ModeDir:
			n.file.Close()
			stack = append(stack, n)
		default:
			if slash {
				n.file.Close()
				return node{}, unix.ENOTDIR
			}
			return n, nil
		}
	}
	return node{}, fmt.Errorf("more than %d path components: %w", maxSteps, unix.ELOOP)
}

// present lists the layers that exist.
func (w *walker) present() []int {
	var all []int
	for i, f := range w.layers {
		if f != nil {
			all = append(all, i)
		}
	}
	return all
}

// find joins what the given layers have at rel, as overlayfs does: the topmost
// decides, a whiteout hides what is below, directories merge down to an opaque one.
func (w *walker) find(rel string, layers []int) (found node, err error) {
	defer func() {
		if err != nil && found.file != nil {
			found.file.Close()
			found = node{}
		}
	}()
	for i, layer := range layers {
		f, fi, err := w.openAt(layer, rel)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return found, err
		}
		if found.file == nil {
			found = node{rel: rel, layer: layer, file: f, info: fi}
		}
		last := i == len(layers)-1
		more, err := merges(f, fi, last)
		if fi.IsDir() && found.info.IsDir() {
			found.below = append(found.below, layer)
		}
		if found.file != f {
			f.Close()
		}
		if err != nil {
			return found, err
		}
		if !more {
			break
		}
	}
	if found.file == nil || whiteout(found.info) {
		return found, unix.ENOENT
	}
	return found, nil
}

// merges reports whether layers below f's can add to it.
func merges(f *os.File, fi fs.FileInfo, last bool) (bool, error) {
	if !fi.IsDir() || last {
		return false, nil
	}
	if redirect, err := hasXattr(f, "trusted.overlay.redirect"); err != nil || redirect {
		return false, errors.Join(err, fmt.Errorf("overlay redirect: %w", errors.ErrUnsupported))
	}
	opaque, err := hasXattr(f, "trusted.overlay.opaque")
	return !opaque, err
}

// whiteout is how overlayfs writes down that a name was removed.
func whiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && st.Rdev == 0
}

// openAt opens rel in one layer without reading from it and without following
// a link anywhere. An empty rel is the layer itself.
func (w *walker) openAt(layer int, rel string) (*os.File, fs.FileInfo, error) {
	if rel == "" {
		rel = "."
	}
	fd, err := openBeneath(w.layers[layer], rel, unix.O_PATH)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), rel)
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// openBeneath opens rel below dir; no component of it, nor its end, is followed
// as a link, and nothing above dir can be reached.
func openBeneath(dir *os.File, rel string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), rel, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}

func readlink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	return string(buf[:max(0, n)]), err
}

// hasXattr looks an attribute up through /proc: a descriptor opened with
// O_PATH has no fgetxattr.
func hasXattr(f *os.File, name string) (bool, error) {
	_, err := unix.Getxattr(procPath(f), name, nil)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return false, nil
	default:
		return false, err
	}
}

func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
