package shim

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// heldElsewhere reports whether a process other than this one has the file at path open,
// in whatever way: containerd's clients hold on to a FIFO by an O_PATH descriptor
// while they wait for its other end. It is told by the path's last two elements,
// which containerd makes unique, because the rest depends on the mount namespace
// one looks from. It reads every process's descriptors, milliseconds on a busy node.
func heldElsewhere(path string) bool {
	tail := string(filepath.Separator) + filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
	self := strconv.Itoa(os.Getpid())
	processes, err := names("/proc")
	if err != nil {
		return true // not known to be gone
	}
	for _, pid := range processes {
		if pid[0] < '0' || pid[0] > '9' || pid == self {
			continue
		}
		dir := filepath.Join("/proc", pid, "fd")
		descriptors, err := names(dir)
		if err != nil {
			continue // ended
		}
		for _, fd := range descriptors {
			if target, err := os.Readlink(filepath.Join(dir, fd)); err == nil && strings.HasSuffix(target, tail) {
				return true
			}
		}
	}
	return false
}

func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
