package shim

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// stdinEnd notices a client whose standard input ends before the process it is
// for has been started. Upstream keeps a writer on the FIFO open until CloseIO,
// so that a client may come back; a client learns where to send CloseIO only
// when the task has been created. One that reaches the end of its input earlier
// closes the FIFO and never says more, and the process waits for ever
// (`echo abc | ctr run --rm IMAGE cat` under the stock shim).
//
// A client cannot close the FIFO before upstream has opened the other end, so a
// watch that begins before Create or Exec misses nothing. Closing after the
// start is left alone: that may be a client that detaches.
type stdinEnd struct {
	mu      sync.Mutex
	inotify int // guarded by mu; -1 once closed
}

// watchStdin begins to watch a FIFO; nil without error when there is none.
func watchStdin(fifo string, terminal bool) (*stdinEnd, error) {
	if fifo == "" || terminal {
		return nil, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch standard input: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, fifo, unix.IN_CLOSE_WRITE); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch standard input %s: %w", fifo, err)
	}
	return &stdinEnd{inotify: fd}, nil
}

// reached reports whether the client has closed its end. The watch ends with
// the first call; more are false.
func (e *stdinEnd) reached() bool {
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inotify < 0 {
		return false
	}
	defer e.closeLocked()
	var event [unix.SizeofInotifyEvent + unix.NAME_MAX + 1]byte
	for {
		n, err := unix.Read(e.inotify, event[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}

func (e *stdinEnd) close() {
	if e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.closeLocked()
	}
}

// closeLocked needs mu: a descriptor that is closed twice may be another's.
func (e *stdinEnd) closeLocked() {
	if e.inotify >= 0 {
		_ = unix.Close(e.inotify)
		e.inotify = -1
	}
}
