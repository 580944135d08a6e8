package tunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// readSecret reads a file of at most so many bytes that only its owner, root, may read. What is longer is cut.
func readSecret(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return nil, fmt.Errorf("key file %s is not root's: chown root it", path)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s has mode %s: chmod 600 it, nobody else may read it", path, info.Mode())
	}
	b := make([]byte, most)
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("key file %s is empty", path)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return b[:n], nil
}
