// Package stamps tells whether the files of a directory changed, by what stat(2) says of them. Threat feeds and egress rules are
// followed by it. Its functions may be called from any goroutine.
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
	return s.Size == t.Size && s.Mtime.Equal(t.Mtime) && os.SameFile(s.inode, t.inode)
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
