package door

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// A message of ttrpc begins with ten bytes: length and stream (four each, big
// endian), type, flags.
const (
	headerSize  = 10
	typeRequest = 1
)

// errProtocol is why a connection ends whose peer does not speak ttrpc as a
// client with unary calls does.
var errProtocol = errors.New("not a request of ttrpc")

// firstRead is what is allocated for a message before any of it came.
const firstRead = 32 << 10

// conn is a connection whose peer is held to the limits of a Door. Read is for
// one goroutine, Write for another.
type conn struct {
	net.Conn
	door *Door
	life context.Context // ended by Close: what Read waits for besides its peer
	end  context.CancelFunc

	in    *bufio.Reader // of Conn: a small message comes with one read
	ready []byte        // of a whole message, what Read has not handed on; of Read alone
	last  uint32        // stream of the last request; of Read alone
	sent  frame         // of Write alone

	held int // bytes of a message that has no turn yet; guarded by door.mu

	mu      sync.Mutex
	since   time.Time         // of the last message either way; guarded by mu
	open    map[uint32]func() // calls without an answer, by stream, and what ends each; guarded by mu
	writing time.Time         // since when a write goes on; zero: none does; guarded by mu
	unread  time.Time         // when that was first found to take long; guarded by mu
	closed  bool              // guarded by mu
	room    chan struct{}     // there may be room for another call
}

// Read implements net.Conn: it returns parts of whole messages only. Its error is
// io.EOF whatever happened: after any other ttrpc keeps the connection.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ready) == 0 {
		message, err := c.message()
		if err != nil {
			if errors.Is(err, errProtocol) {
				c.refuse(&c.door.counts.Invalid)
			}
			return 0, io.EOF
		}
		c.ready = message
	}
	n := copy(p, c.ready)
	if c.ready = c.ready[n:]; len(c.ready) == 0 {
		c.ready = nil // of a large message nothing is kept
	}
	return n, nil
}

// message reads the next request and waits for its turn.
func (c *conn) message() ([]byte, error) {
	if err := c.awaitRoom(); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize, 512)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	n, err := c.in.Read(header)
	if err != nil {
		return nil, err
	}
	defer c.door.release(c)
	c.door.hold(c, n)
	c.touch()
	if err := c.SetReadDeadline(time.Now().Add(c.door.limits.MessageTime)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c.in, header[n:]); err != nil {
		return nil, c.slow(err)
	}
	length, stream := int64(binary.BigEndian.Uint32(header)), binary.BigEndian.Uint32(header[4:])
	switch {
	case length > int64(c.door.limits.Message):
		return nil, fmt.Errorf("%w: a message of %d bytes, the most is %d", errProtocol, length, c.door.limits.Message)
	case header[8] != typeRequest || stream%2 != 1 || stream <= c.last:
		return nil, fmt.Errorf("%w: type %d, stream %d after %d", errProtocol, header[8], stream, c.last)
	}
	message, err := c.body(header, headerSize+int(length))
	if err != nil {
		return nil, c.slow(err)
	}
	c.last = stream
	return message, c.enter(stream, message)
}

// body reads a message up to a size, and allocates no more than twice what came.
func (c *conn) body(message []byte, size int) ([]byte, error) {
	for len(message) < size {
		if len(message) == cap(message) || cap(message) < firstRead && cap(message) < size {
			grown := make([]byte, len(message), min(size, max(2*cap(message), firstRead)))
			copy(grown, message)
			message = grown
		}
		n, err := c.in.Read(message[len(message):min(size, cap(message))])
		if err != nil {
			return nil, err
		}
		message = message[:len(message)+n]
		c.door.hold(c, n)
	}
	return message, nil
}

// slow counts a peer whose message was not whole in time.
func (c *conn) slow(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.refuse(&c.door.counts.Slow)
		return fmt.Errorf("a message was not whole within %s: %w", c.door.limits.MessageTime, net.ErrClosed)
	}
	return err
}

// awaitRoom waits until the peer has few enough calls without an answer.
func (c *conn) awaitRoom() error {
	for {
		c.mu.Lock()
		full := len(c.open) >= c.door.limits.CallsOfOne
		c.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-c.room:
		case <-c.life.Done():
			return net.ErrClosed
		}
	}
}

// enter waits for the turn of a call and notes that it is under way.
func (c *conn) enter(stream uint32, message []byte) error {
	leave, err := c.door.enter(c.life, message[headerSize:])
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		leave()
		return net.ErrClosed
	}
	c.open[stream], c.since = leave, time.Now()
	return nil
}

// touch notes that something happened.
func (c *conn) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
}

// Write implements net.Conn. An answer that is written ends its call.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	c.mu.Lock()
	c.writing, c.unread, c.since = now, time.Time{}, now
	c.mu.Unlock()
	if err := c.SetWriteDeadline(now.Add(c.door.limits.AnswerTime)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	c.writing = time.Time{}
	c.mu.Unlock()
	c.sent.advance(p[:n], c.answered)
	if err != nil { // ttrpc goes on reading after a failed answer; this peer is lost
		_ = c.slow(err)
		_ = c.Close()
	}
	return n, err
}

// answered ends a call.
func (c *conn) answered(stream uint32) {
	c.mu.Lock()
	leave := c.open[stream]
	delete(c.open, stream)
	c.mu.Unlock()
	if leave != nil {
		leave()
	}
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// Close implements net.Conn and gives back all that the peer held.
func (c *conn) Close() error {
	c.mu.Lock()
	again, open := c.closed, c.open
	c.closed, c.open = true, nil
	c.mu.Unlock()
	if again {
		return nil
	}
	c.end()
	err := c.Conn.Close()
	c.door.forget(c)
	for _, leave := range open {
		leave()
	}
	return err
}

// refuse closes the connection and counts it, once.
func (c *conn) refuse(which *uint64) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if !closed {
		c.door.count(which)
		_ = c.Close()
	}
}

// idle returns since when nothing has happened, and whether the server owes an answer.
func (c *conn) idle() (since time.Time, busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, len(c.open) > 0
}

// stalls reports whether an answer has been waiting for the peer at two looks, some time apart: at one look it may be this process that
// did not run meanwhile, on a machine that was paused or has too much to do.
func (c *conn) stalls() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := time.Now(); {
	case c.writing.IsZero() || now.Sub(c.writing) <= stalled:
		return false
	case c.unread.IsZero():
		c.unread = now
		return false
	default:
		return now.Sub(c.unread) > stalled
	}
}

// frame follows messages through a stream of bytes.
type frame struct {
	header [headerSize]byte
	have   int    // of header
	left   uint32 // of the body
}

// advance goes on by p and calls whole with the stream of each message that ended.
func (f *frame) advance(p []byte, whole func(stream uint32)) {
	for len(p) > 0 {
		if f.have < headerSize {
			n := copy(f.header[f.have:], p)
			p, f.have = p[n:], f.have+n
			if f.have < headerSize {
				return
			}
			f.left = binary.BigEndian.Uint32(f.header[:])
		}
		n := min(uint64(f.left), uint64(len(p)))
		p, f.left = p[n:], f.left-uint32(n)
		if f.left == 0 {
			f.have = 0
			whole(binary.BigEndian.Uint32(f.header[4:]))
		}
	}
}

// methodOf reads the method's name, field 2, from a request of ttrpc. What it
// cannot read has no name, and ttrpc will refuse it.
func methodOf(request []byte) string {
	const field = 2
	for len(request) > 0 {
		number, kind, n := protowire.ConsumeTag(request)
		if n < 0 {
			return ""
		}
		request = request[n:]
		if number == field && kind == protowire.BytesType {
			name, _ := protowire.ConsumeBytes(request)
			return string(name[:min(len(name), 64)])
		}
		if n = protowire.ConsumeFieldValue(number, kind, request); n < 0 {
			return ""
		}
		request = request[n:]
	}
	return ""
}
