package intercept

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/intercept/http1"
)

// bufferSize holds nearly every head and small body; one that holds no head grows, up to maxBuffer.
const (
	bufferSize = 16 << 10
	maxBuffer  = http1.MaxHead + bufferSize
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// buffer holds bytes that were read and not yet passed on. It has memory only while it holds some.
type buffer struct {
	b    []byte
	r, w int
	own  *[bufferSize]byte // of the pool; nil when it grew beyond
}

func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }
func (b *buffer) empty() bool   { return b.r == b.w }

// space is where more can be read to.
func (b *buffer) space() []byte {
	if b.b == nil {
		b.own = buffers.Get().(*[bufferSize]byte)
		b.b, b.r, b.w = b.own[:], 0, 0
	}
	if b.w == len(b.b) {
		if b.r > 0 {
			b.w = copy(b.b, b.bytes())
			b.r = 0
		} else if len(b.b) < maxBuffer {
			grown := make([]byte, min(4*len(b.b), maxBuffer))
			copy(grown, b.b)
			b.release()
			b.b = grown
		}
	}
	return b.b[b.w:]
}

// consume takes n bytes from the front.
func (b *buffer) consume(n int) {
	if b.r += n; b.r == b.w {
		b.drop()
	}
}

// drop gives the memory back.
func (b *buffer) drop() {
	b.release()
	b.b, b.r, b.w = nil, 0, 0
}

func (b *buffer) release() {
	if b.own != nil {
		buffers.Put(b.own)
		b.own = nil
	}
}

// side is one end of what is relayed: the client's connection, or one to a server. One goroutine reads and one writes.
type side struct {
	tcp *net.TCPConn
	tls *tls.Conn // over tcp, where TLS is originated; nil otherwise
	raw syscall.RawConn
	buf buffer

	watch atomic.Uint64 // in the watcher; 0: not yet
	once  sync.Once
	close func(reset bool) // called before the connection is closed; nil: nothing is

	// of the read under way
	n    int
	err  error
	read func(uintptr) bool

	// of the write under way
	rest    []byte
	failed  error
	written func(uintptr) bool
}

func (s *side) init(conn *net.TCPConn) (err error) {
	s.tcp, s.read, s.written = conn, s.tryRead, s.tryWrite
	s.raw, err = conn.SyscallConn()
	return err
}

// fill waits for bytes and reads them into the buffer, which takes no memory before they are there. The error is io.EOF
// when the peer sends no more.
func (s *side) fill() error {
	if s.tls != nil {
		n, err := s.tls.Read(s.buf.space())
		s.buf.w += n
		if n > 0 {
			return nil
		}
		return err
	}
	if err := s.raw.Read(s.read); err != nil {
		if s.buf.empty() {
			s.buf.drop()
		}
		return err
	}
	switch {
	case s.err != nil:
		return s.err
	case s.n == 0:
		return io.EOF
	}
	s.buf.w += s.n
	return nil
}

// tryRead reads if there is something, and else lets the runtime wait.
func (s *side) tryRead(fd uintptr) bool {
	for {
		n, errno := quick(unix.SYS_READ, fd, s.buf.space())
		switch {
		case errno == 0 && n > 0:
			s.n, s.err = n, nil
			return true
		case errno == unix.EINTR:
			continue
		}
		if s.buf.empty() {
			s.buf.drop()
		}
		if errno == unix.EAGAIN {
			return false
		}
		s.n, s.err = 0, nil // the end, or an error
		if errno != 0 {
			s.err = errno
		}
		return true
	}
}

// tryWrite writes what is left while there is room for it, and else lets the runtime wait.
func (s *side) tryWrite(fd uintptr) bool {
	for len(s.rest) > 0 {
		n, errno := quick(unix.SYS_WRITE, fd, s.rest)
		switch errno {
		case 0:
			s.rest = s.rest[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			s.failed = errno
			return true
		}
	}
	return true
}

// quick is a read or write that cannot block, without telling Go's scheduler, which would wake its monitor and may give the
// processor away: for calls of a few microseconds that costs more than they do.
func quick(call, fd uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// ended tells whether nothing is left to be read from the kernel, now and ever.
func (s *side) ended() bool {
	var n int
	var err error
	var b [1]byte
	if s.raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) }) != nil {
		return true
	}
	return n == 0 && err == nil
}

// poll reads what is there already. It tells whether fill would not wait.
func (s *side) poll() (got bool, err error) {
	if err := s.raw.Control(func(fd uintptr) { got = s.tryRead(fd) }); err != nil || !got {
		return false, err
	}
	if s.err == nil && s.n == 0 {
		s.err = io.EOF
	}
	if s.err == nil {
		s.buf.w += s.n
	}
	return true, s.err
}

func (s *side) write(b []byte) error {
	if s.tls != nil {
		_, err := s.tls.Write(b)
		return err
	}
	s.rest, s.failed = b, nil
	err := s.raw.Write(s.written)
	s.rest = nil
	if err != nil {
		return err
	}
	return s.failed
}

// closeWrite tells the peer that no more comes.
func (s *side) closeWrite() {
	if s.tls != nil {
		_ = s.tls.CloseWrite() // the peer may be gone
		return
	}
	_ = s.tcp.CloseWrite() // likewise
}

// shut ends the connection both ways without closing it, which waits for whoever reads it: who reads it learns, and closes it.
func (s *side) shut() {
	_ = s.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // it may be over
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// interrupt has a read that is under way return, and each after it until resume.
func (s *side) interrupt() { _ = s.tcp.SetReadDeadline(past) }
func (s *side) resume()    { _ = s.tcp.SetReadDeadline(time.Time{}) }

// end closes the connection; with reset, so that the peer learns that it failed.
func (s *side) end(w *watcher, reset bool) {
	s.once.Do(func() {
		w.drop(s.watch.Load())
		if s.close != nil {
			s.close(reset)
		}
		if reset {
			_ = s.tcp.SetLinger(0)
		} else if s.tls != nil {
			_ = s.tcp.SetWriteDeadline(time.Now().Add(time.Second)) // of the closing alert
			_ = s.tls.Close()
		}
		_ = s.tcp.Close()
	})
}

// isTimeout tells a deadline that passed from other ends.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
