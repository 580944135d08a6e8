// Package whole replaces files as a whole: whoever reads one sees what was there before, or all that is new. What a gateway, tunneld and its
// uplinks write down is replaced by it.
//
// A file has one writer at a time, in a directory of root's alone. Files are of mode 0600.
//
// Not for: a container's bundle and records (packages bundle and record, whose directories others may remove meanwhile).
package whole

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace gives a file new content. It may be lost with the machine's power: this is for what holds until the next boot, or is only a help.
func Replace(path string, content []byte) error {
	f, err := replace(path, content, func(*os.File) error { return nil })
	if err != nil {
		return err
	}
	return f.Close()
}

// Keep gives a file new content, which is on the disk when it returns.
func Keep(path string, content []byte) error {
	f, err := KeepOpen(path, content)
	if err != nil {
		return err
	}
	return f.Close()
}

// KeepOpen is Keep, and returns the file for what is to be written after its content.
func KeepOpen(path string, content []byte) (*os.File, error) {
	f, err := replace(path, content, (*os.File).Sync)
	if err != nil {
		return nil, err
	}
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// replace has the content in a file beside the path before it is there. On error the old file stays, and nothing beside it.
func replace(path string, content []byte, settle func(*os.File) error) (*os.File, error) {
	beside := path + "~" // always the same, so that those who are killed leave no more than one
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if err == nil {
		err = settle(f)
	}
	if err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(beside))
	}
	return f, nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
