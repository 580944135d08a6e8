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
	buf []byte
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
	m := &Memory{dir: dir, v1: v1, bell: bell{fd: -1}, buf: make([]byte, 8192)}
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

// State reads what the group uses now. The error wraps fs.ErrNotExist when the group is gone.
func (m *Memory) State() (MemoryState, error) {
	file := "memory.current"
	if m.v1 {
		file = "memory.usage_in_bytes"
	}
	// The lists first: what comes to be between the two readings counts as need.
	data, err := m.read("memory.stat")
	if err != nil {
		return MemoryState{}, err
	}
	lists := cache(data, m.v1)
	if data, err = m.read(file); err != nil {
		return MemoryState{}, err
	}
	usage := number(data)
	return MemoryState{Usage: usage, Need: max(0, usage-lists)}, nil
}

// cache is how much of a group's usage the kernel can take away without hurting, by its memory.stat.
func cache(stat []byte, v1 bool) int64 {
	var inactive, active, mapped, shared, slab int64
	prefix := ""
	if v1 {
		prefix = "total_" // with the groups inside, as usage is
	}
	for len(stat) > 0 {
		var line []byte
		line, stat = cutByte(stat, '\n')
		key, n := cutByte(line, ' ')
		if len(key) <= len(prefix) || string(key[:len(prefix)]) != prefix {
			continue
		}
		switch string(key[len(prefix):]) {
		case "inactive_file":
			inactive = number(n)
		case "active_file":
			active = number(n)
		case "mapped_file", "file_mapped":
			mapped = number(n)
		case "shmem":
			shared = number(n)
		case "slab_reclaimable":
			slab = number(n)
		}
	}
	return inactive + active - min(active, max(0, mapped-shared)) + slab
}

// Limit is the group's hard limit as the kernel has it; math.MaxInt64 is none.
func (m *Memory) Limit() (int64, error) {
	data, err := m.read(m.limitFile())
	if err != nil {
		return 0, err
	}
	if n := limit(data); n > 0 {
		return n, nil
	}
	return math.MaxInt64, nil
}

func (m *Memory) limitFile() string {
	if m.v1 {
		return "memory.limit_in_bytes"
	}
	return "memory.max"
}

// SetLimit moves the hard limit and reads it back, rounded down to a page by the kernel; math.MaxInt64 is none. A limit of memory and swap together
// is not moved: on v1 the kernel refuses to go above it (EINVAL). Below what is in use v1's kernel refuses too (EBUSY) and v2's
// kills.
func (m *Memory) SetLimit(n int64) error {
	if err := m.write(m.limitFile(), n); err != nil {
		return err
	}
	const page = 1 << 16 // the largest there is
	if is, err := m.Limit(); err != nil || is > n || n-is >= page {
		return errors.Join(fmt.Errorf("limit the memory of cgroup %s to %d bytes: the kernel has %d", m.dir, n, is), err)
	}
	return nil
}

// Throttle sets how much the group may use before the kernel reclaims and, where that does not help, holds whoever goes on (memory.high), and
// before Bell rings. math.MaxInt64 is none. v1 has nothing like it: there it does nothing.
func (m *Memory) Throttle(n int64) error {
	if m.v1 {
		return nil
	}
	return m.write("memory.high", n)
}

// Swap is the limit of memory and swap together, math.MaxInt64 where there is none or the kernel does not count swap;
// on v2, which counts swap alone, it is none.
func (m *Memory) Swap() int64 {
	if !m.v1 {
		return math.MaxInt64
	}
	if data, err := m.read("memory.memsw.limit_in_bytes"); err == nil {
		if n := limit(data); n > 0 {
			return n
		}
	}
	return math.MaxInt64
}

// Bell is what epoll is to wait for, -1 before the first Adopt.
func (m *Memory) Bell() (fd int, events uint32) { return m.fd, m.events }

// Hush makes the bell wait for something new.
func (m *Memory) Hush() {
	if m.fd < 0 {
		return
	}
	if m.v1 {
		var count [8]byte
		_, _ = unix.Read(m.fd, count[:]) // it does not block: EAGAIN says that there is nothing
		return
	}
	_, _ = unix.Pread(m.fd, m.buf, 0) // gone: the loop's next look says so
}

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
	Armed{m.bell}.Close()
	m.bell = bell{fd: -1}
}

// read returns the content of one of the group's files, valid until the next call.
func (m *Memory) read(file string) ([]byte, error) {
	fd, err := unix.Open(filepath.Join(m.dir, file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s of cgroup %s: %w", file, m.dir, err)
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, m.buf)
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of cgroup %s: %w", file, m.dir, err)
	}
	return m.buf[:n], nil
}

func (m *Memory) write(file string, n int64) error {
	value := strconv.FormatInt(n, 10)
	switch {
	case n == math.MaxInt64 && m.v1:
		value = "-1"
	case n == math.MaxInt64:
		value = "max"
	}
	if err := m.put(file, value); err != nil {
		return fmt.Errorf("write %s to %s of cgroup %s: %w", value, file, m.dir, err)
	}
	return nil
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
