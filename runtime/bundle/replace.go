package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// replace gives path new content in one step: whoever opens it sees the old or
// the new file, whole. Nothing is synchronised to disk: a bundle is part of
// containerd's state, which does not outlive the boot, and where it lies on a disk
// the synchronisation costs a start 5 to 30 ms (docs/decisions/0009).
func replace(path string, content []byte, like fs.FileInfo) error {
	temp, err := write(filepath.Dir(path), content, like)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// write makes a new file in dir (O_EXCL, mode 0600, or owner and mode of like) and
// returns its name. On error there is no file.
func write(dir string, content []byte, like fs.FileInfo) (_ string, err error) {
	f, err := os.CreateTemp(dir, "."+configName+".forefend-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(content); err != nil {
		return "", err
	}
	if like != nil {
		if err := own(f.Name(), like); err != nil {
			return "", err
		}
	}
	return f.Name(), nil
}

// own gives path the owner and mode of like. The owner first: chown clears bits
// of the mode.
func own(path string, like fs.FileInfo) error {
	if s, ok := like.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(path, int(s.Uid), int(s.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, like.Mode().Perm())
}
