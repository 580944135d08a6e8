package channel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Stream is what a channel runs over: a connected socket, as *os.File or net.Conn.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Config says how a channel is used.
type Config struct {
	Key [KeySize]byte
	End End // which end this is

	// Stall is how long a record may take from its first byte to its last, and how long a write may wait for the peer
	// to read. Zero: 5 s.
	Stall time.Duration
	// Rate is how many bytes a second the peer may send in the long run, MAC and header included, and Burst how many
	// at once. Zero: no bound.
	Rate, Burst int
	// OnFault, if not nil, is told of a peer's fault, once.
	OnFault func(*Fault)
}

const defaultStall = 5 * time.Second

// Conn is one end of a channel.
type Conn struct {
	stream Stream
	cfg    Config

	rmu     sync.Mutex
	opener  *sealer // guarded by rmu
	next    uint64  // sequence number of the record to come; guarded by rmu
	buf     []byte  // what was read and is not consumed; guarded by rmu
	payload []byte  // of the last record, what Read has not returned yet; aliases buf; guarded by rmu
	used    int     // bytes of buf that payload's record takes; guarded by rmu
	tokens  float64 // bytes the peer may send now; guarded by rmu
	filled  time.Time
	rerr    error // guarded by rmu

	wmu    sync.Mutex
	sealer *sealer // guarded by wmu
	seq    uint64  // of the next record; guarded by wmu
	out    []byte  // guarded by wmu
	werr   error   // guarded by wmu
}

// New makes an end of a channel of stream, which it then owns.
func New(stream Stream, cfg Config) *Conn {
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	return &Conn{
		stream: stream, cfg: cfg,
		opener: newSealer(cfg.Key[:], cfg.End.peer()), sealer: newSealer(cfg.Key[:], cfg.End),
		tokens: float64(cfg.Burst), filled: time.Now(),
	}
}

// Read returns bytes of the next record. Its error is a *Fault where the peer broke the rules, io.EOF where it ended
// between two records.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for len(c.payload) == 0 {
		if c.rerr != nil {
			return 0, c.rerr
		}
		if err := c.receive(); err != nil {
			c.rerr = err
			if fault := (*Fault)(nil); errors.As(err, &fault) && c.cfg.OnFault != nil {
				c.cfg.OnFault(fault) // before the peer can learn of it, and end
			}
			_ = c.stream.Close() // nothing that follows could be trusted
		}
	}
	n := copy(p, c.payload)
	c.payload = c.payload[n:]
	return n, nil
}

// receive reads one record into payload, which is empty before it.
func (c *Conn) receive() error {
	c.buf = c.buf[:copy(c.buf, c.buf[c.used:])]
	c.used = 0
	want := headerSize
	for {
		if len(c.buf) >= headerSize {
			n, wrong := size(c.buf)
			if wrong != "" {
				return c.fault(wrong)
			}
			want = n
		}
		if len(c.buf) >= want {
			break
		}
		if err := c.fill(want); err != nil {
			return err
		}
	}
	if !c.affordable(want) {
		return c.fault(Flood)
	}
	payload, wrong := c.opener.open(c.buf[:want], c.next)
	if wrong != "" {
		return c.fault(wrong)
	}
	c.next++
	c.payload, c.used = payload, want
	return nil
}

// fill reads what is there, at least one byte. A record that has begun has to go on before the stall deadline.
func (c *Conn) fill(want int) error {
	if cap(c.buf) < want {
		grown := make([]byte, len(c.buf), max(want, 512))
		copy(grown, c.buf)
		c.buf = grown
	}
	begun := len(c.buf) > 0
	if begun {
		if err := c.stream.SetReadDeadline(time.Now().Add(c.cfg.Stall)); err != nil {
			return fmt.Errorf("channel: %w", err)
		}
	}
	n, err := c.stream.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if begun && err == nil {
		err = c.stream.SetReadDeadline(time.Time{})
	}
	switch {
	case n > 0 && err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.fault(Stalled)
	case errors.Is(err, io.EOF) && len(c.buf) > 0:
		return c.fault(Truncated)
	case errors.Is(err, io.EOF):
		return io.EOF
	case err == nil:
		return io.ErrNoProgress
	}
	return fmt.Errorf("channel: %w", err)
}

// affordable takes the bytes of a record out of what the peer may send.
func (c *Conn) affordable(n int) bool {
	if c.cfg.Rate == 0 {
		return true
	}
	now := time.Now()
	c.tokens = min(float64(c.cfg.Burst), c.tokens+now.Sub(c.filled).Seconds()*float64(c.cfg.Rate)) - float64(n)
	c.filled = now
	return c.tokens >= 0
}

func (c *Conn) fault(k Kind) *Fault { return &Fault{Kind: k, Seq: c.next} }

// Write sends p in as many records as it takes. It is atomic with regard to other writers. After an error the
// channel is of no use, since half a record may be out; it is then closed.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.werr != nil {
		return 0, c.werr
	}
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, MaxPayload)
		if err := c.send(p[sent : sent+n]); err != nil {
			c.werr = err
			_ = c.stream.Close() // the error says enough
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func (c *Conn) send(payload []byte) error {
	c.out = c.sealer.seal(c.out[:0], c.seq, payload)
	c.seq++
	if err := c.stream.SetWriteDeadline(time.Now().Add(c.cfg.Stall)); err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	_, err := c.stream.Write(c.out)
	if cap(c.out) > keep {
		c.out = nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Fault{Kind: Stalled, Seq: c.seq - 1}
	}
	if err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	return nil
}

// keep is the largest buffer that is kept for the next record: most are small.
const keep = 4 << 10

// Close closes the stream. Reads and writes under way end.
func (c *Conn) Close() error { return c.stream.Close() }
