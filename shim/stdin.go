package shim

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lateCheck is how long after a process's start it is looked for somebody who could still write to a standard
	// input that had no writer before; a client that was slow is looked for again, each time after four times as long.
	lateCheck = 100 * time.Millisecond
	lastCheck = 10 * time.Second
	// readCheck is how often it is looked whether upstream reads; it opens the FIFO in a goroutine of its own.
	readCheck = 2 * time.Millisecond
)

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
//
// Upstream itself loses an end that comes too early: CloseIO for an exec that has not
// been started does nothing, and one that closes upstream's writer before upstream's
// reader has been opened leaves that reader waiting for another writer for ever. So the end
// is told only once somebody in this process reads.
type stdinEnd struct {
	fifo   string
	orphan bool // nobody had it open for writing, or waited to, when the watch began

	mu      sync.Mutex
	inotify int         // -1 once the watch has ended; guarded by mu
	reader  int         // keeps what is written until upstream has a reader; guarded by mu like inotify
	started bool        // guarded by mu
	told    bool        // the client has said that its input ended, too early for upstream; guarded by mu
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

// tell takes note that the client has said that its input ended. When that was too early
// for upstream it returns true: settle will see to it.
func (e *stdinEnd) tell() bool {
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started && e.reader < 0 {
		return false
	}
	e.told = true
	return true
}

// settle ends the watch once the process has been started. end is called when
// the client will write no more: at once, or a little later from another
// goroutine, unless close comes first.
func (e *stdinEnd) settle(end func()) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started || e.reader < 0 {
		return // started twice, says a client; or deleted already
	}
	e.started = true
	e.told = e.reachedLocked() || e.told
	e.onceReadLocked(time.Now().Add(lastCheck), end)
}

// onceReadLocked lets go of the FIFO once upstream reads it, and then tells of the end if there
// was one. It needs mu.
func (e *stdinEnd) onceReadLocked(until time.Time, end func()) {
	if !readHere(e.reader) && time.Now().Before(until) {
		e.afterLocked(readCheck, func() { e.onceReadLocked(until, end) })
		return
	}
	e.closeLocked()
	switch {
	case e.told:
		e.later = time.AfterFunc(0, end) // without mu
	case e.orphan:
		e.lookLocked(lateCheck, end)
	}
}

// lookLocked looks after a while whether the client is gone. It needs mu.
func (e *stdinEnd) lookLocked(after time.Duration, end func()) {
	if after > lastCheck {
		return
	}
	e.later = time.AfterFunc(after, func() {
		if !heldElsewhere(e.fifo) {
			end()
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.later != nil {
			e.lookLocked(4*after, end)
		}
	})
}

// afterLocked calls f later, with mu, unless close comes first. It needs mu.
func (e *stdinEnd) afterLocked(d time.Duration, f func()) {
	e.later = time.AfterFunc(d, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.reader >= 0 {
			f()
		}
	})
}

// reachedLocked reports whether the client has closed its end. It needs mu.
func (e *stdinEnd) reachedLocked() bool {
	if e.inotify < 0 {
		return false
	}
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
		e.later = nil
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
