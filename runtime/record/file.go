package record

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxFile bounds a record and a sealed file. A decision travels in one ttrpc
// message, which is at most 4 MiB; a record adds the facts to it.
const maxFile = 8 << 20

// replaceFile writes data to path atomically: a reader sees the old content or
// the new. The directory is made when missing, root-only. Another process may
// remove it, or the one it is in, as empty at any moment until the temporary
// file is in it; hence the attempts.
func replaceFile(path string, data []byte) error {
	if len(data) > maxFile {
		return fmt.Errorf("write %s: %d bytes, the most is %d", path, len(data), maxFile)
	}
	const attempts = 100
	var err error
	for range attempts {
		err = writeAndRename(path, data)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) { // MkdirAll gives both
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeAndRename(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// TempPrefix starts the name of a file not yet whole; only a crash leaves one.
const TempPrefix = ".new-"

// readFile reads a file that replaceFile wrote. Whatever else may lie at path
// (a link, a FIFO, something huge) is an error, not a hang and not memory.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, damaged(path, errors.New("is a symbolic link"))
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, damaged(path, fmt.Errorf("is not a regular file but %s", fi.Mode().Type()))
	case fi.Size() > maxFile:
		return nil, damaged(path, fmt.Errorf("has %d bytes, the most is %d", fi.Size(), maxFile))
	}
	data := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, damaged(path, err)
	}
	return data, nil
}

func damaged(path string, why error) error {
	return fmt.Errorf("%s is %w: %w", path, ErrDamaged, why)
}
