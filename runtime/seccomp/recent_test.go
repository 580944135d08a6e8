package seccomp

import (
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/workload"
)

func TestRecentKeepsOrder(t *testing.T) {
	var r recent
	start := time.Unix(1000, 0)
	add := func(millis int, thread uint32, nr int32) {
		r.add(nr, thread, start.Add(time.Duration(millis)*time.Millisecond))
	}
	if r.take() != nil {
		t.Error("something of nothing")
	}
	add(0, 7, unix.SYS_CONNECT)
	add(1, 7, unix.SYS_CONNECT)
	add(2, 8, unix.SYS_CONNECT)
	add(200, 8, unix.SYS_CONNECT) // too late to share an entry
	add(201, 8, unix.SYS_EXECVE)
	trace := r.take()
	calls, err := trace.Calls()
	want := []workload.Call{
		{At: 0, Thread: 7, Name: "connect", Count: 2},
		{At: 2 * time.Millisecond, Thread: 8, Name: "connect", Count: 1},
		{At: 200 * time.Millisecond, Thread: 8, Name: "connect", Count: 1},
		{At: 201 * time.Millisecond, Thread: 8, Name: "execve", Count: 1},
	}
	if err != nil || len(calls) != len(want) || !trace.From.Equal(start) {
		t.Fatalf("%+v, %v", calls, err)
	}
	for i := range want {
		if calls[i] != want[i] {
			t.Errorf("call %d: %+v, want %+v", i, calls[i], want[i])
		}
	}
	if r.take() != nil {
		t.Error("taken twice")
	}
}

func TestRecentIsBounded(t *testing.T) {
	var r recent
	for i := range workload.MaxTrace + 10 {
		r.add(unix.SYS_CONNECT, uint32(i), time.Unix(1000, 0))
	}
	trace := r.take()
	if calls, err := trace.Calls(); err != nil || len(calls) != workload.MaxTrace || trace.Lost != 10 {
		t.Errorf("%d calls, %d lost, %v", len(calls), trace.Lost, err)
	}
}

func TestReadPath(t *testing.T) {
	read := func(text string) string {
		b := append([]byte(text), 0)
		return readPath(os.Getpid(), uintptr(unsafe.Pointer(&b[0])))
	}
	for text, want := range map[string]string{"/bin/sh": "/bin/sh", "": ""} {
		if got := read(text); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
	if got := readPath(os.Getpid(), 1); got != "" {
		t.Errorf("of no memory: %q", got)
	}
	// A path at the very end of mapped memory.
	page := os.Getpagesize()
	m, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	if err := unix.Mprotect(m[page:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	copy(m[page-8:page], "/bin/ls\x00")
	if got := readPath(os.Getpid(), uintptr(unsafe.Pointer(&m[page-8]))); got != "/bin/ls" {
		t.Errorf("at the end of a page: %q", got)
	}
}

// BenchmarkRecent is what the record of order adds to each watched call.
func BenchmarkRecent(b *testing.B) {
	var r recent
	for i := range b.N {
		if i%workload.MaxTrace == 0 {
			r.take()
		}
		r.add(int32(i%40), uint32(i%3), time.Now())
	}
}
