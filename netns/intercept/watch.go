package intercept

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher tells when peers hang up, without reading: of a client that waits for an answer and of a server that waits for a
// request nobody reads, and a goroutine for each would be most of what an idle connection costs.
type watcher struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex
	peers numbered[func(broken bool)] // guarded by mu
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime polls it
		return nil, errors.Join(fmt.Errorf("watch connections: %w", err), unix.Close(fd))
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "epoll")}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

// run calls the functions of peers that hung up until close. They may not block.
func (w *watcher) run() {
	var events [64]unix.EpollEvent
	for {
		var n int
		err := w.raw.Read(func(fd uintptr) bool {
			n = epollNow(fd, events[:])
			return n != 0
		})
		if err != nil || n < 0 {
			return
		}
		for _, e := range events[:n] {
			w.mu.Lock()
			f := w.peers.live[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
			w.mu.Unlock()
			if f != nil {
				f(e.Events&unix.EPOLLERR != 0)
			}
		}
	}
}

// epollNow is epoll_wait without waiting, by the call that all architectures have. It returns -1 on an error.
func epollNow(fd uintptr, events []unix.EpollEvent) int {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			return -1
		}
	}
}

// add watches a socket until it is closed, and has f called once the peer sends no more, and, with broken, once it reset the
// connection. EPOLLHUP does not say that: it also comes when both sides have ended in peace.
func (w *watcher) add(socket syscall.RawConn, f func(broken bool)) (id uint64) {
	w.mu.Lock()
	id = w.peers.add(f)
	w.mu.Unlock()
	_ = socket.Control(func(fd uintptr) { // of a closed one there is nothing to be told
		e := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
		_ = w.raw.Control(func(self uintptr) { _ = unix.EpollCtl(int(self), unix.EPOLL_CTL_ADD, int(fd), &e) })
	})
	return id
}

// drop forgets a socket that is being closed.
func (w *watcher) drop(id uint64) {
	w.mu.Lock()
	w.peers.remove(id)
	w.mu.Unlock()
}

func (w *watcher) close() { _ = w.file.Close() }
