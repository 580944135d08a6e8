package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Memory watches and moves the memory limit of one group. Nothing of it blocks but Arm: on cgroup v1 each of its marks
// waits until no processor of the machine looks at the old ones.
//
// A Memory belongs to one goroutine at a time, Arm's result to whoever calls Adopt.
type Memory struct {
	dir string
	v1  bool
	bell
	files MemoryFiles
	buf   MemoryBuffer
}

// bell is the descriptor that becomes readable when there is something to see.
type bell struct {
	fd     int // v1: an eventfd; v2: memory.events
	events uint32
}

// MemoryState is one look at a group's memory. Sizes are bytes.
type MemoryState struct {
	Usage int64 // all that is charged to the group
	// Need is what the kernel cannot take away without hurting: usage without the file cache, but with those pages of
	// files that are mapped and in active use, such as a program's code. Memory that was swapped out is not in it.
	Need int64
}

// Memory opens the group's memory controller for watching. The error wraps errors.ErrUnsupported where the kernel
// has no such notification, fs.ErrNotExist where the group is gone.
func (g Group) Memory() (*Memory, error) {
	dir, v1 := g.dir("memory")
	if dir == "" {
		return nil, fmt.Errorf("watch the memory of a cgroup: no memory controller: %w", errors.ErrUnsupported)
	}
	m := &Memory{dir: dir, v1: v1, bell: bell{fd: -1}}
	needed := "memory.events"
	if v1 {
		needed = "cgroup.event_control"
	}
	switch _, err := os.Stat(filepath.Join(dir, needed)); {
	case err == nil:
	case m.gone():
		return nil, fmt.Errorf("watch the memory of cgroup %s: %w", dir, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("watch the memory of cgroup %s: it has no %s: %w", dir, needed, errors.ErrUnsupported)
	}
	var err error
	if m.files, err = openMemoryFiles(dir, v1); err != nil {
		return nil, fmt.Errorf("watch the memory of cgroup %s: %w", dir, err)
	}
	return m, nil
}

// MemoryWatchable reports whether Memory works on this machine.
func MemoryWatchable() bool { return memoryWatchable() }

var memoryWatchable = sync.OnceValue(func() bool {
	mounts, err := hierarchies()
	if err != nil {
		return false
	}
	if m, v1 := mounts["memory"]; v1 {
		for _, file := range []string{"cgroup.event_control", "memory.pressure_level"} {
			if _, err := os.Stat(filepath.Join(m.point, file)); err != nil {
				return false
			}
		}
		return true
	}
	m, v2 := mounts[unifiedKey]
	if !v2 {
		return false
	}
	controllers, err := os.ReadFile(filepath.Join(m.point, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(controllers)), "memory")
})

func (m *Memory) gone() bool {
	_, err := os.Stat(m.dir)
	return errors.Is(err, fs.ErrNotExist)
}

// Unified reports whether the group is one of cgroup v2, which has Throttle.
func (m *Memory) Unified() bool { return !m.v1 }

// Files are the group's open files, for who must not be held up by Go's scheduler. They are the Memory's: Close closes them.
func (m *Memory) Files() MemoryFiles { return m.files }

// State reads what the group uses now. The error wraps fs.ErrNotExist when the group is gone.
func (m *Memory) State() (MemoryState, error) {
	s, err := m.files.State(&m.buf)
	return s, m.failed("read the use", err)
}

// Limit is the group's hard limit as the kernel has it; math.MaxInt64 is none.
func (m *Memory) Limit() (int64, error) {
	n, err := m.files.Limit(&m.buf)
	return n, m.failed("read the limit", err)
}

// SetLimit moves the hard limit and reads it back, rounded down to a page by the kernel; math.MaxInt64 is none. A limit of memory and swap together
// is not moved: on v1 the kernel refuses to go above it (EINVAL). Below what is in use v1's kernel refuses too (EBUSY) and v2's
// kills.
func (m *Memory) SetLimit(n int64) error {
	return m.failed("set the limit to "+strconv.FormatInt(n, 10)+" bytes", m.files.SetLimit(n, &m.buf))
}

// Throttle sets how much the group may use before the kernel reclaims and, where that does not help, holds whoever goes on (memory.high), and
// before Bell rings. math.MaxInt64 is none. v1 has nothing like it: there it does nothing.
func (m *Memory) Throttle(n int64) error {
	return m.failed("throttle at "+strconv.FormatInt(n, 10)+" bytes", m.files.Throttle(n, &m.buf))
}

func (m *Memory) failed(what string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return fmt.Errorf("memory of cgroup %s: %s: %w", m.dir, what, MemoryError(errno))
}

// Swap is the limit of memory and swap together, math.MaxInt64 where there is none or the kernel does not count swap;
// on v2, which counts swap alone, it is none.
func (m *Memory) Swap() int64 {
	if !m.v1 {
		return math.MaxInt64
	}
	if data, err := os.ReadFile(filepath.Join(m.dir, "memory.memsw.limit_in_bytes")); err == nil {
		if n := limit(data); n > 0 {
			return n
		}
	}
	return math.MaxInt64
}

// Bell is what epoll is to wait for, -1 before the first Adopt.
func (m *Memory) Bell() (fd int, events uint32) { return m.fd, m.events }

// Armed is a bell that rings but that nobody listens to yet.
type Armed struct{ bell }

// Close drops a bell that is not adopted.
func (a Armed) Close() {
	if a.fd >= 0 {
		_ = unix.Close(a.fd) // only read from
	}
}

// Arm makes a bell that rings when usage crosses one of the marks or the kernel reclaims in the group. On v2, where there are no marks, it
// rings when usage reaches what Throttle set.
//
// The marks are v1's usage thresholds; reclaim is what tells where file cache fills the limit, so that the growth of a program no longer
// shows in usage. Each mark takes the kernel a grace period of RCU, some ten milliseconds on a busy machine: nobody who is in a
// hurry calls Arm. It may be called beside other methods.
func (m *Memory) Arm(marks []int64) (_ Armed, err error) {
	if !m.v1 {
		fd, err := unix.Open(filepath.Join(m.dir, "memory.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return Armed{}, fmt.Errorf("watch the memory of cgroup %s: %w", m.dir, err)
		}
		_, _ = unix.Pread(fd, make([]byte, 256), 0) // what was before is no news
		return Armed{bell{fd, unix.EPOLLPRI}}, nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return Armed{}, fmt.Errorf("watch the memory of cgroup %s: %w", m.dir, err)
	}
	a := Armed{bell{fd, unix.EPOLLIN}}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := m.register(fd, "memory.pressure_level", "low"); err != nil {
		return Armed{}, err
	}
	for _, mark := range marks {
		if err := m.register(fd, "memory.usage_in_bytes", strconv.FormatInt(mark, 10)); err != nil {
			return Armed{}, err
		}
	}
	return a, nil
}

// register asks for notifications about one file of v1.
func (m *Memory) register(bell int, file, arg string) error {
	f, err := os.Open(filepath.Join(m.dir, file))
	if err != nil {
		return fmt.Errorf("watch the memory of a cgroup: %w", err)
	}
	defer f.Close()
	what := fmt.Sprintf("%d %d %s", bell, f.Fd(), arg)
	if err := m.put("cgroup.event_control", what); err != nil {
		return fmt.Errorf("watch %s of cgroup %s: %w", file, m.dir, err)
	}
	return nil
}

// Adopt makes an armed bell the group's and returns the one before, for Close.
func (m *Memory) Adopt(a Armed) (before Armed) {
	before = Armed{m.bell}
	m.bell = a.bell
	return before
}

// Close stops watching; the limit stays as it is.
func (m *Memory) Close() {
	m.files.close()
	Armed{m.bell}.Close()
	m.bell = bell{fd: -1}
}

func (m *Memory) put(file, value string) error {
	fd, err := unix.Open(filepath.Join(m.dir, file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
