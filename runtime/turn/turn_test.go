package turn

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/root"
)

// attributes are those of every thread of this process.
func attributes(t *testing.T) map[int]*unix.SchedAttr {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[int]*unix.SchedAttr)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(id, 0); err == nil { // else it has ended
			all[id] = attr
		}
	}
	return all
}

// niceOfChild is the niceness of a program that is started now.
func niceOfChild(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nice").Output() // prints its own
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// A brief precedence ends with the last who needs it, and nothing that is started meanwhile has it.
func TestRootBrief(t *testing.T) {
	root.Test(t)
	runtime.LockOSThread() // this thread is looked at, and starts the child
	defer runtime.UnlockOSThread()
	usualThreads := func(int) (*unix.SchedAttr, error) {
		return &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, nil
	}
	if err := everyThread(usualThreads); err != nil { // whatever the test itself was started with
		t.Fatal(err)
	}
	usual := niceOfChild(t)
	before := attributes(t)
	var b Brief
	first, second := make(chan struct{}), make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() { b.Do(func() { close(first); <-second }) })
	<-first
	b.Do(func() {
		me := attributes(t)[unix.Gettid()]
		if me == nil || me.Nice != Nice || me.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
			t.Errorf("this thread has %+v", me)
		}
		if got := niceOfChild(t); got != usual {
			t.Errorf("a program that is started meanwhile has niceness %s, the usual one is %s", got, usual)
		}
	})
	if me := attributes(t)[unix.Gettid()]; me == nil || me.Nice != Nice {
		t.Errorf("it ended while another goroutine needed it: %+v", me)
	}
	close(second)
	asking.Wait()
	for id, after := range attributes(t) {
		was, known := before[id]
		if known && *after != *was || after.Nice == Nice {
			t.Errorf("thread %d has %+v afterwards, %+v before", id, after, was)
		}
	}
}
