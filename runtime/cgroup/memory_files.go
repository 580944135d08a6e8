package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MemoryFiles are the open files of one group's memory controller. Its methods may be called by a thread that Go's scheduler believes to be in a system
// call: they allocate nothing, grow no stack (all is nosplit, which nothing checks: add none that is not) and write no pointer. They make
// system calls that the scheduler is not told of, and that do not block as long as no limit is lowered. The zero value has no files.
type MemoryFiles struct {
	stat, usage, limit, high int32 // high is v2's
	v1                       bool
}

// MemoryBuffer is where the files are read into.
type MemoryBuffer [8192]byte

func openMemoryFiles(dir string, v1 bool) (f MemoryFiles, err error) {
	f = MemoryFiles{stat: -1, usage: -1, limit: -1, high: -1, v1: v1}
	usage, limit := "memory.current", "memory.max"
	if v1 {
		usage, limit = "memory.usage_in_bytes", "memory.limit_in_bytes"
	}
	open := func(fd *int32, name string, flags int) {
		if err != nil {
			return
		}
		var n int
		if n, err = unix.Open(filepath.Join(dir, name), flags|unix.O_CLOEXEC, 0); err != nil {
			err = &fs.PathError{Op: "open", Path: name, Err: err}
			return
		}
		*fd = int32(n)
	}
	open(&f.stat, "memory.stat", unix.O_RDONLY)
	open(&f.usage, usage, unix.O_RDONLY)
	open(&f.limit, limit, unix.O_RDWR)
	if !v1 {
		open(&f.high, "memory.high", unix.O_WRONLY)
	}
	if err != nil {
		f.close()
	}
	return f, err
}

func (f *MemoryFiles) close() {
	for _, fd := range []*int32{&f.stat, &f.usage, &f.limit, &f.high} {
		if *fd >= 0 {
			_ = unix.Close(int(*fd)) // nothing is buffered
		}
		*fd = -1
	}
}

// MemoryError is what an error number of MemoryFiles means: fs.ErrNotExist where the group is gone.
func MemoryError(errno syscall.Errno) error {
	switch errno {
	case unix.ENODEV:
		return fs.ErrNotExist
	case unix.ERANGE:
		return errors.New("the kernel has another limit than the one that was written")
	}
	return errno
}

// Unified reports whether the group is one of cgroup v2.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) Unified() bool { return !f.v1 }

// State is Memory.State.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) State(buf *MemoryBuffer) (MemoryState, syscall.Errno) {
	// The lists first: what comes to be between the two readings counts as need.
	n, errno := pread(f.stat, buf)
	if errno != 0 {
		return MemoryState{}, errno
	}
	lists := cache(buf[:n], f.v1)
	if n, errno = pread(f.usage, buf); errno != 0 {
		return MemoryState{}, errno
	}
	usage := digits(buf[:n])
	return MemoryState{Usage: usage, Need: max(0, usage-lists)}, 0
}

// Limit is Memory.Limit.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) Limit(buf *MemoryBuffer) (int64, syscall.Errno) {
	n, errno := pread(f.limit, buf)
	if errno != 0 {
		return 0, errno
	}
	if n > 0 && buf[0] == 'm' { // "max"
		return math.MaxInt64, 0
	}
	if is := digits(buf[:n]); is > 0 && is < unlimited {
		return is, 0
	}
	return math.MaxInt64, 0
}

// SetLimit is Memory.SetLimit; ERANGE: the kernel has another limit.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) SetLimit(n int64, buf *MemoryBuffer) syscall.Errno {
	if errno := f.put(f.limit, n, buf); errno != 0 {
		return errno
	}
	const page = 1 << 16 // the largest there is
	is, errno := f.Limit(buf)
	if errno == 0 && (is > n || n-is >= page) {
		errno = unix.ERANGE
	}
	return errno
}

// Throttle is Memory.Throttle.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) Throttle(n int64, buf *MemoryBuffer) syscall.Errno {
	if f.v1 {
		return 0
	}
	return f.put(f.high, n, buf)
}

// Hush makes a bell of the group, by Memory.Bell, wait for something new. -1 is none.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) Hush(bell int32, buf *MemoryBuffer) {
	switch {
	case bell < 0:
	case f.v1:
		syscall.RawSyscall6(unix.SYS_READ, uintptr(bell), uintptr(unsafe.Pointer(buf)), 8, 0, 0, 0) // EAGAIN: there is nothing
	default:
		_, _ = pread(bell, buf) // gone: the next look says so
	}
}

// put writes a limit.
//
//go:nosplit
//go:norace
func (f *MemoryFiles) put(fd int32, n int64, buf *MemoryBuffer) syscall.Errno {
	at := len(buf)
	switch {
	case n == math.MaxInt64 && f.v1:
		at -= 2
		buf[at], buf[at+1] = '-', '1'
	case n == math.MaxInt64:
		at -= 3
		buf[at], buf[at+1], buf[at+2] = 'm', 'a', 'x'
	default:
		for n = max(0, n); ; n /= 10 {
			at--
			buf[at] = byte('0' + n%10)
			if n < 10 {
				break
			}
		}
	}
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(&buf[at])), uintptr(len(buf)-at), 0, 0, 0)
		if errno != unix.EINTR { // v1 moves no limit while a signal waits (mem_cgroup_resize_max), and Go preempts by signals
			return errno
		}
	}
}

//go:nosplit
//go:norace
func pread(fd int32, buf *MemoryBuffer) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(buf)), uintptr(len(buf)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// cache is how much of a group's usage the kernel can take away without hurting, by its memory.stat.
//
//go:nosplit
//go:norace
func cache(stat []byte, v1 bool) int64 {
	var inactive, active, mapped, shared, slab int64
	for at := 0; at < len(stat); at++ { // a line each
		key := at
		if v1 { // with the groups inside, as usage is
			const prefix = "total_"
			key += len(prefix)
			if !begins(stat, at, prefix) {
				key = len(stat)
			}
		}
		switch {
		case begins(stat, key, "inactive_file "):
			inactive = after(stat, key+len("inactive_file "))
		case begins(stat, key, "active_file "):
			active = after(stat, key+len("active_file "))
		case begins(stat, key, "mapped_file "):
			mapped = after(stat, key+len("mapped_file "))
		case begins(stat, key, "file_mapped "):
			mapped = after(stat, key+len("file_mapped "))
		case begins(stat, key, "shmem "):
			shared = after(stat, key+len("shmem "))
		case begins(stat, key, "slab_reclaimable "):
			slab = after(stat, key+len("slab_reclaimable "))
		}
		for at < len(stat) && stat[at] != '\n' {
			at++
		}
	}
	return inactive + active - min(active, max(0, mapped-shared)) + slab
}

// begins reports whether word stands in text at a place, which may be beyond its end. It is not inlined, since a thread's stack does
// not grow here: the frames of all that is nosplit must fit into 800 bytes, in a fuzzer's build as well.
//
//go:noinline
//go:nosplit
//go:norace
func begins(text []byte, at int, word string) bool {
	if at+len(word) > len(text) {
		return false
	}
	for i := range len(word) {
		if text[at+i] != word[i] {
			return false
		}
	}
	return true
}

//go:nosplit
//go:norace
func after(text []byte, at int) int64 { return digits(text[at:]) }

// digits is number without the word "max". It is not inlined, as begins.
//
//go:noinline
//go:nosplit
//go:norace
func digits(text []byte) int64 {
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		if n > (math.MaxInt64-int64(c-'0'))/10 {
			return math.MaxInt64
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// Available reads how much of the node's memory could be given to somebody, from an open /proc/meminfo; ok is false
// where that cannot be known. It keeps to the rules of MemoryFiles.
//
//go:nosplit
//go:norace
func Available(meminfo int32, buf *MemoryBuffer) (bytes int64, ok bool) {
	n, errno := pread(meminfo, buf)
	const name = "MemAvailable:"
	for at := 0; errno == 0 && at < n; at++ {
		if begins(buf[:n], at, name) {
			for at += len(name); at < n && buf[at] == ' '; at++ {
			}
			return min(digits(buf[at:n]), math.MaxInt64>>10) << 10, true
		}
		for at < n && buf[at] != '\n' {
			at++
		}
	}
	return 0, false
}
