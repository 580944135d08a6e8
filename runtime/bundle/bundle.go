package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// The files of a bundle.
const (
	configName = "config.json"
	// OriginalName is config.json as containerd wrote it, once a Commit changed it.
	OriginalName = "config.json.forefend-orig"
)

// MaxSize bounds config.json. containerd cannot send a larger one either: it is
// the default limit of a gRPC message there.
const MaxSize = 16 << 20

// Bundle is an OCI bundle whose config.json was read.
type Bundle struct {
	dir    string
	raw    []byte // what the file holds
	before []byte // its typed view; nil after a Commit, until the next one needs it
	spec   *specs.Spec
	info   fs.FileInfo
}

// Load reads a bundle's config.json. A file that is missing is
// errdefs.ErrNotFound; one that is too large, not a regular file or not a spec is
// errdefs.ErrInvalidArgument, with file, line and column where there is one.
func Load(dir string) (*Bundle, error) {
	path := filepath.Join(dir, configName)
	raw, info, err := read(path)
	if err != nil {
		return nil, err
	}
	spec, err := decode(path, raw)
	if err != nil {
		return nil, err
	}
	before, err := rawjson.Text(spec)
	return &Bundle{dir: dir, raw: raw, before: before, spec: spec, info: info}, err
}

func decode(path string, raw []byte) (*specs.Spec, error) {
	if err := bounded(raw); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", at(path, raw, err), err, errdefs.ErrInvalidArgument)
	}
	return spec, nil
}

// Spec is the typed view of config.json. The caller may change it; Commit writes the
// changes.
func (b *Bundle) Spec() *specs.Spec { return b.spec }

// Commit makes the changes of the typed view in config.json. The new file is
// complete before it takes the old one's place, has its owner and mode, and
// the file of the first Load stays as OriginalName, readable by its owner only.
// Without a change nothing is written.
func (b *Bundle) Commit() error {
	path := filepath.Join(b.dir, configName)
	if err := b.view(); err != nil {
		return err
	}
	out, err := rawjson.Edit(b.raw, b.before, b.spec)
	if err != nil {
		return fmt.Errorf("change %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if bytes.Equal(out, b.raw) {
		return nil
	}
	if err := b.keepOriginal(); err != nil {
		return fmt.Errorf("keep the original of %s: %w", path, err)
	}
	if err := replace(path, out, b.info); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	b.raw, b.before = out, nil
	return nil
}

// view makes sure that before is the typed view of what the file holds.
func (b *Bundle) view() error {
	if b.before != nil {
		return nil
	}
	spec, err := decode(filepath.Join(b.dir, configName), b.raw)
	if err != nil {
		return err
	}
	b.before, err = rawjson.Text(spec)
	return err
}

// keepOriginal copies what Load read beside it, unless an earlier Commit did.
func (b *Bundle) keepOriginal() error {
	path := filepath.Join(b.dir, OriginalName)
	temp, err := write(b.dir, b.raw, nil)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Restore puts the original config.json back and forgets it. Where there is no
// original there is nothing to restore: it can be called at any time, again, and for
// a bundle that is gone.
func Restore(dir string) error {
	original, path := filepath.Join(dir, OriginalName), filepath.Join(dir, configName)
	if _, err := os.Lstat(original); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if info, err := os.Lstat(path); err == nil {
		if err := own(original, info); err != nil {
			return fmt.Errorf("restore %s: %w", path, err)
		}
	}
	if err := os.Rename(original, path); err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	return nil
}

// read reads a regular file of at most MaxSize bytes. Opening does not block on
// what is not regular.
func read(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	if info.Size() > MaxSize {
		return nil, nil, fmt.Errorf("%s has %d bytes, the most is %d: %w", path, info.Size(), MaxSize, errdefs.ErrInvalidArgument)
	}
	raw, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(raw) > MaxSize {
		err = fmt.Errorf("%s has more than %d bytes: %w", path, MaxSize, errdefs.ErrInvalidArgument)
	}
	return raw, info, err
}
