package crash

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/crash/ptrace"
)

// op is one change of a directory tree, in the order a process made them.
type op struct {
	Kind     opKind
	Path, To string // below the traced directory
	Offset   int64
	Data     []byte
}

type opKind string

const (
	opMkdir    opKind = "mkdir"
	opMake     opKind = "make" // a file that was not there
	opWrite    opKind = "write"
	opTruncate opKind = "truncate" // to Offset
	opSync     opKind = "sync"
	opRename   opKind = "rename"
	opUnlink   opKind = "unlink"
	opAck      opKind = "ack" // the process said so in Data: what it tells of is durable
)

// recorder writes down the changes below a directory. It implements ptrace.Handler's Call.
type recorder struct {
	dir   string
	to    *gob.Encoder
	known map[string]bool // paths that are there
	fail  error
}

func (r *recorder) put(o op) {
	if err := r.to.Encode(o); err != nil && r.fail == nil {
		r.fail = err
	}
}

// below is a path relative to the directory, "" when it is outside.
func (r *recorder) below(path string) string {
	rest, ok := strings.CutPrefix(path, r.dir+"/")
	if !ok {
		return ""
	}
	return rest
}

func (r *recorder) call(c *ptrace.Call) {
	if !c.Done || c.Result < 0 {
		return
	}
	switch c.Number {
	case unix.SYS_OPENAT:
		r.opened(r.below(c.Path(0, 1)), c.Args[2])
	case unix.SYS_MKDIRAT:
		if p := r.below(c.Path(0, 1)); p != "" {
			r.known[p] = true
			r.put(op{Kind: opMkdir, Path: p})
		}
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		r.wrote(c)
	case unix.SYS_FTRUNCATE:
		if p := r.below(c.File(0)); p != "" {
			r.put(op{Kind: opTruncate, Path: p, Offset: int64(c.Args[1])})
		}
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		if p := r.below(c.File(0)); p != "" || c.File(0) == r.dir {
			r.put(op{Kind: opSync, Path: p})
		}
	case unix.SYS_RENAMEAT:
		from, to := r.below(c.Path(0, 1)), r.below(c.Path(2, 3))
		if from != "" || to != "" {
			delete(r.known, from)
			r.known[to] = true
			r.put(op{Kind: opRename, Path: from, To: to})
		}
	case unix.SYS_UNLINKAT:
		if p := r.below(c.Path(0, 1)); p != "" {
			delete(r.known, p)
			r.put(op{Kind: opUnlink, Path: p})
		}
	case unix.SYS_LINKAT, unix.SYS_FALLOCATE, unix.SYS_PWRITEV, unix.SYS_WRITEV, unix.SYS_COPY_FILE_RANGE, unix.SYS_RENAMEAT2:
		if r.below(c.File(0)) != "" || r.below(c.Path(0, 1)) != "" {
			r.fail = fmt.Errorf("system call %d changes the directory in a way that is not recorded", c.Number)
		}
	}
}

func (r *recorder) opened(path string, flags uint64) {
	if path == "" || flags&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return
	}
	if !r.known[path] {
		r.known[path] = true
		r.put(op{Kind: opMake, Path: path})
	} else if flags&unix.O_TRUNC != 0 {
		r.put(op{Kind: opTruncate, Path: path})
	}
}

func (r *recorder) wrote(c *ptrace.Call) {
	data := c.Bytes(c.Args[1], uint64(c.Result))
	path := r.below(c.File(0))
	if path == "" {
		if c.Args[0] == 1 {
			r.put(op{Kind: opAck, Data: bytes.TrimSpace(data)})
		}
		return
	}
	offset, synced := c.Position(0)
	offset -= c.Result
	if c.Number == unix.SYS_PWRITE64 {
		offset = int64(c.Args[3])
	}
	if offset < 0 || int64(len(data)) != c.Result {
		r.fail = fmt.Errorf("a write to %s at %d could not be read", path, offset)
	}
	r.put(op{Kind: opWrite, Path: path, Offset: offset, Data: data})
	if synced {
		r.put(op{Kind: opSync, Path: path})
	}
}

func readOps(path string) (ops []op, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for in := gob.NewDecoder(f); ; {
		var o op
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return ops, nil
		} else if err != nil {
			return nil, err
		}
		ops = append(ops, o)
	}
}

// fate is what a power cut does to that which was not synced. The file system has a journal (ext4, xfs, btrfs): changes
// of names come to disk in their order, and with a file's fsync all those before it.
type fate string

const (
	lost  fate = "lost"  // nothing of it is on disk
	names fate = "names" // names are, contents are not: a new file is empty
	zeros fate = "zeros" // lengths are, too, and contents are zeros
	torn  fate = "torn"  // all is, but of the last write the first half
	kept  fate = "kept"  // all is: what a killed process leaves
)

var fates = []fate{lost, names, zeros, torn, kept}

// inode is a file's content, and that of it which is on disk for certain.
type inode struct {
	data, durable []byte
	last          []byte // data before the last write, and with half of it
}

// disk is a file system of which the power can be cut.
type disk struct {
	dirs, durableDirs   map[string]bool
	files, durableFiles map[string]*inode
}

func newDisk() *disk {
	return &disk{dirs: map[string]bool{}, durableDirs: map[string]bool{}, files: map[string]*inode{}, durableFiles: map[string]*inode{}}
}

// apply makes one change.
func (d *disk) apply(o op) {
	f := d.files[o.Path]
	switch o.Kind {
	case opMkdir:
		d.dirs[o.Path] = true
	case opMake:
		d.files[o.Path] = &inode{}
	case opWrite:
		if f != nil {
			f.last = written(f.data, o.Offset, o.Data[:len(o.Data)/2])
			f.data = written(f.data, o.Offset, o.Data)
		}
	case opTruncate:
		if f != nil {
			f.data = written(f.data[:min(int64(len(f.data)), o.Offset)], o.Offset, nil)
			f.last = nil
		}
	case opSync:
		if f != nil {
			f.durable, f.last = f.data, nil
		}
		d.durableDirs, d.durableFiles = clone(d.dirs), clone(d.files)
	case opRename:
		d.rename(o.Path, o.To)
	case opUnlink:
		delete(d.files, o.Path)
		delete(d.dirs, o.Path)
	}
}

func (d *disk) rename(from, to string) {
	if d.dirs[from] {
		delete(d.dirs, from)
		d.dirs[to] = true
	}
	for _, m := range []map[string]*inode{d.files} {
		for path, f := range clone(m) {
			if rest, inside := strings.CutPrefix(path, from+"/"); inside {
				delete(m, path)
				m[to+"/"+rest] = f
			} else if path == from {
				delete(m, path)
				m[to] = f
			}
		}
	}
	for path := range clone(d.dirs) {
		if rest, inside := strings.CutPrefix(path, from+"/"); inside {
			delete(d.dirs, path)
			d.dirs[to+"/"+rest] = true
		}
	}
}

// written is a copy of data with more at an offset; a gap is zeros.
func written(data []byte, offset int64, more []byte) []byte {
	out := make([]byte, max(int64(len(data)), offset+int64(len(more))))
	copy(out, data)
	copy(out[offset:], more)
	return out
}

func clone[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// cut writes what is on disk after a power cut into dir.
func (d *disk) cut(f fate, dir string) error {
	dirs, files := d.dirs, d.files
	if f == lost {
		dirs, files = d.durableDirs, d.durableFiles
	}
	paths := make([]string, 0, len(dirs))
	for p := range dirs {
		paths = append(paths, p)
	}
	slices.Sort(paths) // parents first
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			return err
		}
	}
	for path, node := range files {
		if err := os.WriteFile(filepath.Join(dir, path), node.after(f), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// after is the file's content after a power cut.
func (n *inode) after(f fate) []byte {
	switch f {
	case kept:
		return n.data
	case torn:
		if n.last != nil {
			return n.last
		}
		return n.data
	case zeros:
		if len(n.data) <= len(n.durable) {
			return n.durable
		}
		return written(n.durable, int64(len(n.data)), nil)
	}
	return n.durable
}
