// Package enter takes threads of this process into namespaces of others, and back. It is the one place that does so for network
// namespaces; who needs more of them at once (agent/host, runtime/mounts) has its threads from here.
//
// All functions may be called from any goroutine.
package enter

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// threads are threads of this process that enter namespaces. None goes back to Go's pool, because its root and working directory
// may not be the process's any more, and none ends: runc and others are started with a signal for the death of their parent, and
// for the kernel their parent is the thread that started them, which may have been any.
var threads struct {
	sync.Mutex
	idle []chan func() bool // guarded by the mutex
}

// Thread has job run on such a thread, and does not wait for its end. job reports whether the thread is back in the namespaces of
// its process; one that is not is never used again.
func Thread(job func() (back bool)) {
	threads.Lock()
	var jobs chan func() bool
	if n := len(threads.idle); n > 0 {
		jobs, threads.idle = threads.idle[n-1], threads.idle[:n-1]
	} else {
		jobs = make(chan func() bool, 1)
		go serve(jobs)
	}
	threads.Unlock()
	jobs <- job
}

func serve(jobs chan func() bool) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// What becomes of the main thread would be all of /proc/self. While it is held here, another one takes over.
		go serve(jobs)
		select {}
	}
	for job := range jobs {
		if !job() {
			select {}
		}
		threads.Lock()
		threads.idle = append(threads.idle, jobs)
		threads.Unlock()
	}
}

// Namespace is a network namespace that is held: it does not end before Close.
type Namespace struct {
	file *os.File
	id   uint64
}

// Open opens a network namespace by a path: /proc/PID/ns/net, or where one is bound.
func Open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	var st unix.Stat_t
	switch {
	case err != nil:
		err = fmt.Errorf("%s is no namespace: %w", path, err)
	case kind != unix.CLONE_NEWNET:
		err = fmt.Errorf("%s is a namespace, not of networks", path)
	default:
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Namespace{file: f, id: st.Ino}, nil
}

// Process opens the network namespace that a process is in.
func Process(pid int) (*Namespace, error) { return Open("/proc/" + strconv.Itoa(pid) + "/ns/net") }

// New makes a network namespace that ends with its last descriptor. Its loopback is down.
func New() (*Namespace, error) {
	type result struct {
		ns  *Namespace
		err error
	}
	made := make(chan result, 1)
	Thread(func() (back bool) {
		ns, back, err := create()
		made <- result{ns, err}
		return back
	})
	r := <-made
	if r.err != nil {
		return nil, fmt.Errorf("new network namespace: %w", r.err)
	}
	return r.ns, nil
}

func create() (ns *Namespace, back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, true, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, true, err
	}
	ns, err = Open("/proc/thread-self/ns/net")
	if out := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); out != nil {
		return ns, false, errors.Join(err, out)
	}
	return ns, true, err
}

// ID is the namespace's inode number: no two live ones have the same.
func (n *Namespace) ID() uint64 { return n.id }

// FD is a descriptor of the namespace, good until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Again holds the namespace a second time, independently.
func (n *Namespace) Again() (*Namespace, error) {
	fd, err := unix.FcntlInt(n.file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &Namespace{file: os.NewFile(uintptr(fd), n.file.Name()), id: n.id}, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Do runs f on a thread inside, and waits. Sockets and descriptors of devices that f opens stay the namespace's; goroutines that f
// starts do not run in there. In the namespace that this process is in already, f runs as it would outside.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	Thread(func() (back bool) {
		back, err := n.inside(f)
		done <- err
		return back
	})
	return <-done
}

func (n *Namespace) inside(f func() error) (back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter a network namespace: %w", err)
	}
	err = f()
	if out := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); out != nil {
		return false, errors.Join(err, fmt.Errorf("leave a network namespace: %w", out))
	}
	return true, err
}
