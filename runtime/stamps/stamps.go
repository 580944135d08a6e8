// Package stamps tells whether the files of a directory changed, by what stat(2) says of them. Threat feeds, egress rules
// and files of configuration are followed by it. Its functions may be called from any goroutine.
package stamps

import (
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Stamp is what one file looked like.
type Stamp struct {
	Size  int64
	Mtime time.Time
	inode fs.FileInfo
}

// Of is the stamp of a file.
func Of(info fs.FileInfo) Stamp { return Stamp{Size: info.Size(), Mtime: info.ModTime(), inode: info} }

// Same tells whether two looks saw the same content, as far as stat can tell.
func (s Stamp) Same(t Stamp) bool {
	if s.inode == nil || t.inode == nil { // of none
		return s.inode == t.inode
	}
	return s.Size == t.Size && s.Mtime.Equal(t.Mtime) && os.SameFile(s.inode, t.inode)
}

// File follows one file. Its methods are for one goroutine.
type File struct {
	path        string
	seen, taken Stamp
}

// Follow follows a file from before its first look.
func Follow(path string) *File { return &File{path: path} }

// Settled looks at the file, and tells whether it is another than when it said so the last time, and as it was a look ago: one that is
// being written is not whole yet. The first state that lasts counts, and so does that the file is gone.
func (f *File) Settled() bool {
	now := f.look()
	settled := now.Same(f.seen)
	f.seen = now
	if !settled || now.Same(f.taken) {
		return false
	}
	f.taken = now
	return true
}

// Still tells, after the file was read, whether that was what had settled. If not it is to be read again: Settled says when.
func (f *File) Still() bool {
	if f.look().Same(f.taken) {
		return true
	}
	f.taken = Stamp{}
	return false
}

func (f *File) look() Stamp {
	info, err := os.Stat(f.path)
	if err != nil {
		return Stamp{}
	}
	return Of(info)
}

// Look returns the stamps of the regular files of a directory, by path, whose names are wanted.
func Look(dir string, wanted func(name string) bool) (map[string]Stamp, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := make(map[string]Stamp)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); wanted(e.Name()) && err == nil && info.Mode().IsRegular() {
			found[path] = Of(info)
		}
	}
	return found, nil
}
