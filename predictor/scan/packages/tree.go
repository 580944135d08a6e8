package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"

	"forefend.dev/forefend/runtime/rootfs"
)

// maxDatabase bounds a file of packages that is parsed.
const maxDatabase = 64 << 20

// treeFS is a root filesystem as the extractors want it.
type treeFS struct{ tree rootfs.Tree }

func (t treeFS) Open(name string) (fs.File, error) {
	f, _, err := t.tree.OpenFile("/" + name)
	return f, err
}

func (t treeFS) Stat(name string) (fs.FileInfo, error) {
	_, _, info, err := t.tree.Lookup("/" + name)
	return info, err
}

func (t treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	list, _, err := t.tree.List("/" + name)
	all := make([]fs.DirEntry, len(list))
	for i, e := range list {
		all[i] = dirEntry{e}
	}
	return all, err
}

type dirEntry struct{ rootfs.Entry }

func (d dirEntry) Name() string      { return d.Entry.Name }
func (d dirEntry) IsDir() bool       { return d.Entry.Type.IsDir() }
func (d dirEntry) Type() fs.FileMode { return d.Entry.Type }

// Info says the type alone.
func (d dirEntry) Info() (fs.FileInfo, error) { return entryInfo{d}, nil }

type entryInfo struct{ dirEntry }

func (e entryInfo) Size() int64       { return 0 }
func (e entryInfo) Mode() fs.FileMode { return e.Type() }
func (entryInfo) ModTime() time.Time  { return time.Time{} }
func (entryInfo) Sys() any            { return nil }

// extract runs one extractor over one file. A file that is not there has no packages.
func extract(ctx context.Context, t rootfs.Tree, with filesystem.Extractor, name string) ([]*extractor.Package, error) {
	f, _, err := t.OpenFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxDatabase && with.Name() != goName {
		return nil, fmt.Errorf("%s: %d bytes are more than a list of packages has", name, info.Size())
	}
	found, err := with.Extract(ctx, &filesystem.ScanInput{FS: treeFS{t}, Path: path.Clean(name)[1:], Info: info, Reader: f})
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return found.Packages, err
}
