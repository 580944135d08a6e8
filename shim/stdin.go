package shim

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lateCheck is how long after a process's start it is looked for somebody who
// could still write to a standard input that had no writer before.
const lateCheck = 100 * time.Millisecond

// stdinEnd notices a client whose standard input ends before the process it is
// for has been started. Upstream keeps a writer on the FIFO open until CloseIO,
// so that a client may come back; a client learns where to send CloseIO only
// when the task has been created. One that reaches the end of its input earlier
// closes the FIFO and never says more, and the process waits for ever
// (`echo abc | ctr run --rm IMAGE cat` under the stock shim).
//
// A client with something to write cannot close the FIFO before it has a reader,
// so a watch that begins before upstream's Create or Start misses no such close.
// One with an empty input closes it without ever having opened it, possibly
// before this shim was there (docs/decisions/0014). Closing after the start is
// left alone: that may be a client that detaches.
type stdinEnd struct {
	fifo   string
	orphan bool // nobody had it open for writing, or waited to, when the watch began

	mu      sync.Mutex
	inotify int         // -1 once the watch has ended; guarded by mu
	reader  int         // keeps what is written until upstream has a reader; guarded by mu like inotify
	later   *time.Timer // guarded by mu
}

// watchStdin begins to watch a FIFO; nil without error when there is none.
func watchStdin(fifo string, terminal bool) (_ *stdinEnd, err error) {
	if fifo == "" || terminal {
		return nil, nil
	}
	e := &stdinEnd{fifo: fifo, inotify: -1, reader: -1}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, fmt.Errorf("watch standard input: %w", err)
	}
	if _, err := unix.InotifyAddWatch(e.inotify, fifo, unix.IN_CLOSE_WRITE); err != nil {
		return nil, fmt.Errorf("watch standard input %s: %w", fifo, err)
	}
	if e.reader, err = unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("watch standard input %s: %w", fifo, err)
	}
	written, err := hasWriter(e.reader)
	if err != nil {
		return nil, fmt.Errorf("watch standard input %s: %w", fifo, err)
	}
	e.orphan = !written
	return e, nil
}

// settle ends the watch once the process has been started. end is called when
// the client will write no more: at once, or a little later from another
// goroutine, unless close comes first.
func (e *stdinEnd) settle(end func()) {
	if e == nil {
		return
	}
	switch {
	case e.reached():
		end()
	case e.orphan:
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.later != nil {
			return // started twice, says a client
		}
		e.later = time.AfterFunc(lateCheck, func() {
			if !heldElsewhere(e.fifo) {
				end()
			}
		})
	}
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

// close ends everything; it may be called at any time and again.
func (e *stdinEnd) close() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeLocked()
	if e.later != nil {
		e.later.Stop()
	}
}

func (e *stdinEnd) closeLocked() {
	for _, fd := range []*int{&e.inotify, &e.reader} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// hasWriter reports whether anybody has the FIFO open for writing, those included
// who wait in open(2) for a reader. It takes nothing out of it.
func hasWriter(reader int) (bool, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return false, err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	n, err := unix.Tee(reader, pipe[1], 1, unix.SPLICE_F_NONBLOCK)
	if errors.Is(err, unix.EAGAIN) { // a writer, and nothing written yet
		return true, nil
	}
	return n > 0, err
}
