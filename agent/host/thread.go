package host

import (
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// threads are threads of this process that enter containers. None goes back to Go's pool, because its root and working directory
// are not the process's any more, and none ends: runc and others are started with a signal for the death of their parent, and
// for the kernel their parent is the thread that started them, which may have been any.
var threads struct {
	sync.Mutex
	idle []chan func() bool // guarded by the mutex
}

// onThread has job run on such a thread, and does not wait for its end. job reports whether the thread is back in the
// namespaces of its process; one that is not is never used again.
func onThread(job func() (back bool)) {
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
