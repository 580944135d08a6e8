package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/root"
)

func TestCacheOfStat(t *testing.T) {
	v1 := "cache 900\nrss 50\nmapped_file 30\ninactive_file 1\ntotal_shmem 10\ntotal_mapped_file 110\ntotal_inactive_file 500\ntotal_active_file 300\n"
	v2 := "anon 50\nfile 900\nshmem 10\nfile_mapped 110\ninactive_file 500\nactive_file 300\nslab_reclaimable 7\nslab_unreclaimable 9\n"
	for name, c := range map[string]struct {
		stat string
		v1   bool
		want int64
	}{
		"v1, with the groups inside":            {v1, true, 500 + 300 - 100},
		"v2":                                    {v2, false, 500 + 300 - 100 + 7},
		"no more is mapped than is in use":      {"inactive_file 500\nactive_file 20\nfile_mapped 400\n", false, 500},
		"shared memory is mapped and no cache":  {"inactive_file 5\nactive_file 20\nfile_mapped 400\nshmem 400\n", false, 25},
		"nothing":                               {"", false, 0},
		"lines nobody knows, and none at a end": {"total_x\nx 1\ntotal_active_file 3", true, 3},
	} {
		if got := cache([]byte(c.stat), c.v1); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestNodeMemory(t *testing.T) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var buf MemoryBuffer
	_, here, _ := NodeMemory()
	if n, ok := Available(int32(f.Fd()), &buf); !ok || n < here/2 || n > here*2 {
		t.Errorf("available %d, %v; by NodeMemory %d", n, ok, here)
	}
	if n, ok := Available(-1, &buf); ok {
		t.Errorf("available %d where it cannot be read", n)
	}
	total, available := nodeMemory([]byte("MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   19000000 kB\nBuffers: 3 kB\n"))
	if total != 24683520<<10 || available != 19000000<<10 {
		t.Errorf("total %d, available %d", total, available)
	}
	if total, available, err := NodeMemory(); err != nil || total < available || available <= 0 {
		t.Errorf("this machine: total %d, available %d, %v", total, available, err)
	}
}

// TestMemoryOfFiles runs against a directory that looks like a group.
func TestMemoryOfFiles(t *testing.T) {
	dir := fixture(t, map[string]string{
		"memory.events": "", "memory.current": "1000\n", "memory.stat": "inactive_file 100\n", "memory.max": "99999\n", "memory.high": "max\n",
	})
	m, err := Group{Unified: dir}.Memory()
	if err != nil || !m.Unified() {
		t.Fatal(err)
	}
	defer m.Close()
	if s, err := m.State(); err != nil || s != (MemoryState{Usage: 1000, Need: 900}) {
		t.Errorf("state %+v, %v", s, err)
	}
	if n, err := m.Limit(); err != nil || n != 99999 {
		t.Errorf("limit %d, %v", n, err)
	}
	if err := m.SetLimit(77); err == nil { // a file keeps what was longer
		t.Error("a limit that is not in force is no error")
	}
	if err := m.Throttle(math.MaxInt64); err != nil {
		t.Error(err)
	}
	if n := m.Swap(); n != math.MaxInt64 {
		t.Errorf("swap %d", n)
	}
	if fd, _ := m.Bell(); fd >= 0 {
		t.Errorf("a bell %d before there is one", fd)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := (Group{Unified: dir}).Memory(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("memory of a group that is gone: %v", err)
	}
	for name, g := range map[string]Group{"no controller": {}, "a kernel without events": {Paths: map[string]string{"memory": t.TempDir()}}} {
		if _, err := g.Memory(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rings waits for a bell. poll(2) ends early whatever a signal's handler says (signal(7)), and Go preempts by signals.
func rings(t *testing.T, m *Memory, within time.Duration) bool {
	t.Helper()
	fd, events := m.Bell()
	for end := time.Now().Add(within); ; {
		left := max(0, time.Until(end))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: int16(events)}}, int(left/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

func watched(t *testing.T, g Group, limit int64, marks ...int64) *Memory {
	t.Helper()
	m, err := g.Memory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if err := m.SetLimit(limit); err != nil {
		t.Fatal(err)
	}
	if len(marks) > 0 {
		if err := m.Throttle(marks[0]); err != nil {
			t.Fatal(err)
		}
	}
	armed, err := m.Arm(marks)
	if err != nil {
		t.Fatal(err)
	}
	m.Adopt(armed)
	return m
}

func TestRootBellOfGrowth(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	p := start(t, name, "memory:50331648")
	m := watched(t, g, 96<<20, 32<<20, 40<<20)
	if rings(t, m, 50*time.Millisecond) {
		t.Fatal("it rings before anything happens")
	}
	p.work(t)
	if !rings(t, m, time.Second) {
		t.Fatal("48 MiB do not ring at 32 MiB")
	}
	bell, _ := m.Bell()
	m.files.Hush(int32(bell), &m.buf)
	if !m.Unified() && rings(t, m, 50*time.Millisecond) { // on v2 more of it may have happened meanwhile
		t.Error("it rings on")
	}
	s, err := m.State()
	if err != nil || s.Need < 48<<20 || s.Need > s.Usage {
		t.Errorf("state %+v, %v", s, err)
	}
	if err := m.SetLimit(128 << 20); err != nil {
		t.Error(err)
	}
	if n, err := m.Limit(); err != nil || n != 128<<20 {
		t.Errorf("limit %d, %v", n, err)
	}
	p.exit()
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.State(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state of a group that is gone: %v", err)
	}
}

// cgroup v1 moves no limit while a signal waits for the thread that asks.
func TestRootLimitUnderSignals(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	start(t, name, "idle")
	m, err := g.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, end, ended := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // what Go preempts by
			}
		}
	}()
	defer func() { close(end); <-ended }()
	for i, end := int64(0), time.Now().Add(2*time.Second); i < 100_000 && time.Now().Before(end); i++ { // how far signals let it come differs
		if err := m.SetLimit((64 + i%2) << 20); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
}

// A group whose limit is full of file cache rings when the kernel reclaims in it: there growth does not show in usage.
func TestRootBellOfReclaim(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	dir := bigDir(t)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC && fs.Type != unix.XFS_SUPER_MAGIC && fs.Type != unix.BTRFS_SUPER_MAGIC {
		t.Skipf("what is read from %s (type %#x, the test VM's is the host's) need not become cache of the reader's group", dir, fs.Type)
	}
	file := filepath.Join(dir, "big")
	if err := os.WriteFile(file, make([]byte, 128<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dropCache(t, file)
	p := start(t, name, "read:"+file)
	m := watched(t, g, 64<<20)
	p.work(t)
	if !rings(t, m, time.Second) && !m.Unified() {
		t.Error("128 MiB of cache in 64 MiB do not ring")
	}
	s, err := m.State()
	if err != nil || s.Usage < 48<<20 || s.Need > 32<<20 {
		t.Errorf("with a limit full of cache: usage %d MiB, need %d MiB, %v", s.Usage>>20, s.Need>>20, err)
	}
	p.exit()
}

// bigDir is a directory on a disk.
func bigDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "forefend-cgroup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dropCache(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
}
