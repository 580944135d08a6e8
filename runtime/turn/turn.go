// Package turn lets a process have its turn on a processor before others, where both want it: for good, or for one question.
//
// Niceness and slices are properties of a thread (sched_setattr(2)), and the Go runtime starts threads of its own, so
// all threads of the process are looked up and given them. Both count against threads of the same cgroup; between
// cgroups it is their shares that count.
package turn

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Nice is the niceness of a thread that precedes others.
const Nice = -10

// slice is how long such a thread goes on before others have their turn. Since Linux 6.12 who asks for shorter turns than the thread that
// runs gets them sooner.
const slice = 200 * time.Microsecond

// Ahead lets this process precede others for good. Threads inherit it from the one that starts them, children too; a second look
// finds those that were started meanwhile.
func Ahead() error {
	for range 2 {
		if err := everyThread(func(int) (*unix.SchedAttr, error) { return ahead(0), nil }); err != nil {
			return err
		}
	}
	return nil
}

// ahead are the attributes of a thread that precedes others.
func ahead(flags uint64) *unix.SchedAttr {
	return &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: Nice, Runtime: uint64(slice), Flags: flags}
}

// everyThread gives every thread of this process the attributes that are wanted of it; nil: those that it has. It returns what failed last.
func everyThread(want func(id int) (*unix.SchedAttr, error)) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list my threads: %w", err)
	}
	var failed error
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := want(id)
		if err == nil && attr != nil {
			err = unix.SchedSetAttr(id, attr, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // else it has ended
			failed = fmt.Errorf("thread %d: %w", id, err)
		}
	}
	return failed
}

// Brief is precedence for as long as somebody needs it. The zero value is ready; it may be used from any goroutine.
type Brief struct {
	mu    sync.Mutex
	users int
	was   map[int]*unix.SchedAttr // by thread; those that have been given precedence
}

// Do calls f while the threads that this process has at the beginning precede others. What is started meanwhile, threads or programs, does
// not inherit it. Threads whose niceness somebody has chosen keep it. Where the kernel refuses, f is called all the same.
func (b *Brief) Do(f func()) {
	b.begin()
	defer b.end()
	f()
}

func (b *Brief) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users++; b.users > 1 {
		return
	}
	b.was = make(map[int]*unix.SchedAttr)
	_ = everyThread(func(id int) (*unix.SchedAttr, error) {
		was, err := unix.SchedGetAttr(id, 0)
		if err != nil || was.Policy != unix.SCHED_NORMAL || was.Nice != 0 {
			return nil, err // somebody has chosen, and what is started meanwhile would be reset to 0
		}
		b.was[id] = was
		return ahead(unix.SCHED_FLAG_RESET_ON_FORK), nil
	})
}

func (b *Brief) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 {
		return
	}
	for id, was := range b.was {
		_ = unix.SchedSetAttr(id, was, 0) // it may have ended
	}
	b.was = nil
}
