package notify

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
)

// Rate of messages: Burst at once, one more each Refill. What is beyond it is counted and dropped.
const (
	Burst  = 32
	Refill = 100 * time.Millisecond
)

// Socket is where applications speak.
type Socket struct {
	file *os.File
	conn interface {
		Read(func(fd uintptr) bool) error
	}
	tokens int
	filled time.Time
}

// Listen binds the abstract name in the calling thread's network namespace. The error wraps unix.EADDRINUSE where
// somebody in there has it.
func Listen(name string) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("notify socket @%s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), "notify")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	return &Socket{file: file, conn: conn, tokens: Burst, filled: time.Now()}, nil
}

// Close ends Run.
func (s *Socket) Close() error { return s.file.Close() }

// Run hands each message's events to take until the socket is closed. A message that is not taken is an EventRefused;
// beyond the rate only each reportEvery-th is, with their number.
func (s *Socket) Run(take func(api.Event)) {
	buf := make([]byte, MaxMessage+1)
	beyond := 0 // the rate
	for {
		message, sender, err := s.receive(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		refused := api.Event{Kind: api.EventRefused, Count: 1}
		if sender != nil {
			refused.PID, refused.UID, refused.GID = int(sender.Pid), int(sender.Uid), int(sender.Gid)
		}
		if !s.afford() {
			if beyond++; beyond%reportEvery == 1 {
				refused.Count, refused.Text = min(beyond, reportEvery), "too many messages"
				take(refused)
			}
			if err != nil {
				time.Sleep(Refill) // one that repeats must not spin
			}
			continue
		}
		var events []api.Event
		if err == nil {
			events, err = Parse(message)
		}
		if err != nil {
			refused.Text = err.Error()
			take(refused)
			continue
		}
		for _, e := range events {
			e.PID, e.UID, e.GID = int(sender.Pid), int(sender.Uid), int(sender.Gid)
			take(e)
		}
	}
}

// reportEvery is how many messages over the rate make one event.
const reportEvery = 1000

// receive returns one message and who sent it.
func (s *Socket) receive(buf []byte) (message []byte, sender *unix.Ucred, err error) {
	oob := make([]byte, 512)
	var n, oobn, flags int
	waitErr := s.conn.Read(func(fd uintptr) bool {
		n, oobn, flags, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if waitErr != nil {
		return nil, nil, os.ErrClosed
	}
	if err != nil {
		return nil, nil, err
	}
	sender = credentials(oob[:oobn])
	switch {
	case sender == nil:
		return nil, nil, errors.New("a message without credentials")
	case flags&unix.MSG_TRUNC != 0 || n > MaxMessage:
		return nil, sender, fmt.Errorf("a message of more than %d bytes", MaxMessage)
	}
	return buf[:n], sender, nil
}

// credentials finds the sender in the control messages and closes descriptors that came along.
func credentials(oob []byte) (sender *unix.Ucred) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if c, err := unix.ParseUnixCredentials(&m); err == nil {
			sender = c
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
	}
	return sender
}

// afford takes one message out of what may come now.
func (s *Socket) afford() bool {
	if n := int(time.Since(s.filled) / Refill); n > 0 {
		s.tokens = min(Burst, s.tokens+n)
		s.filled = s.filled.Add(time.Duration(n) * Refill)
	}
	if s.tokens == 0 {
		return false
	}
	s.tokens--
	return true
}
