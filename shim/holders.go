package shim

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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

// readHere reports whether this process has another descriptor that reads the file behind reader.
func readHere(reader int) bool {
	var want unix.Stat_t
	if unix.Fstat(reader, &want) != nil {
		return false
	}
	descriptors, err := names("/proc/self/fd")
	if err != nil {
		return true // not known to be missing
	}
	for _, name := range descriptors {
		fd, err := strconv.Atoi(name)
		if err != nil || fd == reader {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Ino != want.Ino || st.Dev != want.Dev {
			continue
		}
		// The handle by which upstream opens it has O_PATH, and can read nothing.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&(unix.O_ACCMODE|unix.O_PATH) == unix.O_RDONLY {
			return true
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
