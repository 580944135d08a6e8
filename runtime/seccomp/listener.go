package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// maxListeners bounds how many processes started by runc one container may have
// under supervision at a time; each costs a descriptor and a waiting goroutine.
const maxListeners = 1024

// callsPerTurn is after how many calls without a pause a listener lets the shim's
// other goroutines run, so that a flood does not hold them up.
const callsPerTurn = 64

// ErrTooManyListeners is reported when a process could not be supervised any more.
var ErrTooManyListeners = errors.New("too many seccomp listeners")

// listener is one process that runc started, with all its descendants.
type listener struct {
	file      *os.File // non-blocking, so that it waits in Go's poller
	container *Container
	pid       uint32
	origin    string
	// starting holds until the process has executed the workload's program. Up to
	// then what runs behind this listener is runc itself (and the operator's
	// StartContainer hooks): its calls always pass and are nobody's count. A
	// workload cannot make use of it: the filter is inherited by descendants only,
	// and no workload code descends from this process before that execve. Only
	// an execve by the process itself ends the phase, not one by a hook.
	starting bool
}

// newListener takes over fd.
func newListener(fd int, c *Container, n newcomer) (*listener, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		closeAll([]int{fd})
		return nil, fmt.Errorf("prepare seccomp listener: %w", err)
	}
	return &listener{file: os.NewFile(uintptr(fd), "seccomp notify"), container: c, pid: n.pid, origin: n.origin, starting: true}, nil
}

// run answers until the last process behind the listener is gone, or close is
// called. It polls before each receive, because a receive does not return when
// the last process exits. It waits in Go's poller rather than in a blocking poll
// of its own thread: a blocking call wakes Go's sysmon each time it returns, which
// was measured to cost four times the CPU of all the rest (docs of BenchmarkCall).
func (l *listener) run() error {
	defer l.file.Close()
	conn, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for seccomp notifications: %w", err)
	}
	var r responder
	if err := conn.Read(func(fd uintptr) bool {
		r.fd = int(fd)
		return r.servePending(l)
	}); err != nil {
		return fmt.Errorf("wait for seccomp notifications: %w", err)
	}
	return nil
}

// servePending answers all that waits and reports whether the listener is over.
// Go's poller reports edges: it may return false only once nothing waits.
func (r *responder) servePending(l *listener) (gone bool) {
	for i := 1; ; i++ {
		if i%callsPerTurn == 0 {
			runtime.Gosched()
		}
		switch events := poll(r.fd); {
		case events&unix.POLLIN != 0:
			if !r.serve(l) {
				return true
			}
		case events != 0: // POLLHUP: the last process is gone
			return true
		default:
			return false
		}
	}
}

// listeners is the set of a container's listeners.
type listeners struct {
	mu      sync.Mutex // guards all below
	open    map[*listener]struct{}
	closed  bool
	running sync.WaitGroup
}

// start runs l in a goroutine of its own, or closes it.
func (s *listeners) start(l *listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= maxListeners {
		return errors.Join(fmt.Errorf("supervise process %d: %w", l.pid, ErrTooManyListeners), l.file.Close())
	}
	if s.open == nil {
		s.open = make(map[*listener]struct{})
	}
	s.open[l] = struct{}{}
	s.running.Go(func() {
		err := l.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, l)
		if err != nil && !s.closed { // closing interrupts the wait with an error
			l.container.report(err)
		}
	})
	return nil
}

// close ends all listeners and waits for their goroutines.
func (s *listeners) close() {
	s.mu.Lock()
	s.closed = true
	for l := range s.open {
		_ = l.file.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}
