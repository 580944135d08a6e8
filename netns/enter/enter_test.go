package enter

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/root"
)

func TestOpenRefusesOthers(t *testing.T) {
	for _, path := range []string{"/proc/self/ns/uts", "/dev/null", "/nowhere"} {
		if n, err := Open(path); err == nil {
			t.Errorf("%s was opened as namespace %d", path, n.ID())
		}
	}
}

func TestThreadIsNeverTheMainOne(t *testing.T) {
	const jobs = 32
	var started sync.WaitGroup
	started.Add(jobs)
	tids, free := make(chan int, jobs), make(chan bool)
	for range jobs {
		Thread(func() bool {
			tids <- unix.Gettid()
			started.Done()
			<-free // all at once: no thread serves two of them
			return true
		})
	}
	started.Wait()
	close(free)
	close(tids)
	seen := slices.Sorted(func(yield func(int) bool) {
		for id := range tids {
			yield(id)
		}
	})
	if len(slices.Compact(seen)) != jobs || slices.Contains(seen, os.Getpid()) {
		t.Errorf("threads %v of process %d", seen, os.Getpid())
	}
}

func TestRootDo(t *testing.T) {
	root.Test(t)
	home, err := Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	n := fresh(t)
	if n.ID() == home.ID() {
		t.Fatal("the new namespace has the number of our own")
	}
	oops := errors.New("oops")
	for range 100 {
		var names []net.Interface
		err := n.Do(func() (err error) {
			if names, err = net.Interfaces(); err != nil {
				return err
			}
			return oops
		})
		if !errors.Is(err, oops) || len(names) != 1 {
			t.Fatalf("inside: %v, interfaces %v", err, names)
		}
	}
	var after uint64
	done := make(chan error)
	Thread(func() bool {
		var st unix.Stat_t
		err := unix.Stat("/proc/thread-self/ns/net", &st)
		after = st.Ino
		done <- err
		return true
	})
	if err := <-done; err != nil || after != home.ID() {
		t.Errorf("a thread that was inside is in namespace %d now, not in %d: %v", after, home.ID(), err)
	}
}

// fresh makes a namespace that ends with the test.
func fresh(t *testing.T) *Namespace {
	made := make(chan *Namespace)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its namespace: it is not unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		n, err := Open("/proc/thread-self/ns/net")
		if err != nil {
			failed <- err
			return
		}
		made <- n
	}()
	select {
	case n := <-made:
		t.Cleanup(func() { _ = n.Close() })
		return n
	case err := <-failed:
		t.Fatal(err)
		return nil
	}
}
