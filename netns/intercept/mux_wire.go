package intercept

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/intercept/http2"
)

// wire is one connection that carries frames: the client's, or one to a server.
type wire struct {
	m    *mux
	side *side

	// the reader's own
	in      *[readSize]byte
	r, w    int
	rounds  int // of reading since something was sent
	tryRead func(uintptr) bool
	readN   int
	readErr error
	due     time.Time // by when the frame or block that has begun has to be complete; zero: none has
	decoder *http2.Decoder
	block   http2.Block
	anew    []byte      // room for blocks that are written anew
	begun   http2.Frame // HEADERS whose block is not complete; Stream is 0: none
	pieces  []byte      // of that block
	parts   int         // frames of that block
	met     bool        // the peer's SETTINGS came

	// guarded by the mux' mu
	noise      noise
	out, spare []byte
	own        int     // bytes of out that are our answers
	writing    bool    // somebody does
	gone       bool    // nothing is counted any more
	failed     bool    // the peer reads no more
	fresh      bool    // the next block has to say that we have no table
	window     int64   // bytes of bodies that the peer takes now
	initial    int64   // the same of a new stream
	recv       int64   // bytes of bodies that the peer may send
	size       int64   // what recv is at most
	owed       int64   // bytes that were passed on and may be sent again
	lent       int64   // of those: as many more may be sent
	held       int64   // bytes that were not passed on
	blocks     transit // header blocks in out
	blocked    []*half // what waits for window
	tryWrite   func(uintptr) bool
	writeB     []byte
	writeN     int
	writeErr   error
}

// readSize holds a whole frame, and many small ones.
const readSize = 64 << 10

var frameBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

func (w *wire) begin(m *mux, s *side, size int64) {
	*w = wire{
		m: m, side: s, decoder: http2.NewDecoder(), fresh: true,
		window: http2.DefaultWindow, initial: http2.DefaultWindow, recv: http2.DefaultWindow, size: size,
	}
	w.tryRead, w.tryWrite = w.readNow, w.writeNow
}

// widen lets the peer send more than the default. It is called once, at the beginning.
func (w *wire) widen() {
	if more := w.size - w.recv; more > 0 {
		w.out = http2.AppendWindowUpdate(w.out, 0, more)
		w.recv = w.size
	}
}

// takePreface reads a client's preface, the beginning of which is in the side's buffer.
func (w *wire) takePreface(within time.Duration) error {
	w.in = frameBuffers.Get().(*[readSize]byte)
	w.w = copy(w.in[:], w.side.buf.bytes())
	w.side.buf.drop()
	for w.w < len(http2.Preface) {
		if err := w.fill(within); err != nil {
			return err
		}
	}
	if string(w.in[:len(http2.Preface)]) != http2.Preface {
		return &fatal{http2.ProtocolError, "preface"}
	}
	w.r, w.due = len(http2.Preface), time.Time{}
	return nil
}

// fill waits for bytes and reads them. A connection that waits for a new frame has no buffer; the rest of a frame or of a block
// has to come within a time from its beginning.
func (w *wire) fill(within time.Duration) error {
	if w.r == w.w {
		w.r, w.w = 0, 0
		if w.in != nil {
			frameBuffers.Put(w.in)
			w.in = nil
		}
	} else if w.r > 0 {
		w.w = copy(w.in[:], w.in[w.r:w.w])
		w.r = 0
	}
	if w.w > 0 || w.begun.Stream != 0 {
		if w.due.IsZero() {
			w.due = time.Now().Add(within)
		}
		_ = w.side.tcp.SetReadDeadline(w.due)
		defer w.side.resume()
	}
	if w.side.tls != nil {
		w.quiet()
		w.room()
		n, err := w.side.tls.Read(w.in[w.w:])
		w.w += n
		if n > 0 {
			return nil
		}
		return err
	}
	if err := w.side.raw.Read(w.tryRead); err != nil {
		return err
	}
	w.w += w.readN
	return w.readErr
}

func (w *wire) room() {
	if w.in == nil {
		w.in = frameBuffers.Get().(*[readSize]byte)
	}
}

func (w *wire) readNow(fd uintptr) bool {
	w.room()
	for {
		n, errno := quick(unix.SYS_READ, fd, w.in[w.w:])
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			w.quiet()
			if w.w == 0 {
				frameBuffers.Put(w.in)
				w.in = nil
			}
			return false
		case 0:
			w.readN, w.readErr = n, nil
			if n == 0 {
				w.readErr = io.EOF
			}
		default:
			w.readN, w.readErr = 0, errno
		}
		return true
	}
}

// maxRounds is how often is read before something is sent.
const maxRounds = 4

// yield lets others run before what was read is sent on: if many are busy more has come meanwhile, and goes with it. The caller
// holds mu, and does not any more.
func (w *wire) yield() {
	if w.rounds++; w.rounds >= maxRounds || w.side.tls != nil {
		w.rounds = 0
		w.m.flush()
	}
	w.m.mu.Unlock()
	runtime.Gosched()
}

// quiet sends what is to be sent, since nothing more is there to be read. Within a read nobody may close what is read from while
// holding mu.
func (w *wire) quiet() {
	if w.rounds == 0 {
		return
	}
	w.rounds = 0
	w.m.mu.Lock()
	w.m.flush()
	w.m.mu.Unlock()
}

// leave gives memory back. Only the reader calls it.
func (w *wire) leave() {
	if w.in != nil {
		frameBuffers.Put(w.in)
		w.in = nil
	}
}

// frames hands the whole frames that are there to take, one by one, after what is the same for clients and servers. The error
// is a *fatal.
func (w *wire) frames(take func(http2.Frame, []byte) error) error {
	for w.w-w.r >= http2.FrameHeader {
		f := http2.Parse(w.in[w.r:w.w])
		if f.Length > http2.MaxPayload {
			return &fatal{http2.FrameSizeError, "a frame that is too long"}
		}
		if w.w-w.r < http2.FrameHeader+f.Length {
			return nil
		}
		p := w.in[w.r+http2.FrameHeader : w.r+http2.FrameHeader+f.Length]
		w.r += http2.FrameHeader + f.Length
		if err := w.frame(f, p, take); err != nil {
			return err
		}
		if w.begun.Stream == 0 {
			w.due = time.Time{}
		}
	}
	return nil
}

// lengths are what payloads must have; others are of any length.
var lengths = map[http2.Type]int{http2.Priority: 5, http2.Reset: 4, http2.Ping: 8, http2.WindowUpdate: 4}

func (w *wire) frame(f http2.Frame, p []byte, take func(http2.Frame, []byte) error) error {
	if w.begun.Stream != 0 {
		return w.continued(f, p, take)
	}
	if !w.met {
		if f.Type != http2.Settings || f.Has(http2.Ack) {
			return &fatal{http2.ProtocolError, "settings have to come first"}
		}
		w.met = true
	}
	onConnection := f.Stream == 0
	switch f.Type {
	case http2.Data, http2.Headers:
		if onConnection {
			return &fatal{http2.ProtocolError, "a frame without stream"}
		}
		if f.Type == http2.Headers && !f.Has(http2.EndHeaders) {
			return w.start(f, p)
		}
		return take(f, p)
	case http2.Priority, http2.Reset, http2.PushPromise:
		if onConnection {
			return &fatal{http2.ProtocolError, "a frame without stream"}
		}
	case http2.Settings, http2.Ping, http2.GoAway:
		if !onConnection {
			return &fatal{http2.ProtocolError, "a frame of the connection on a stream"}
		}
	case http2.Continuation:
		return &fatal{http2.ProtocolError, "a continuation of nothing"}
	case http2.WindowUpdate:
	default:
		return w.annoy(1)
	}
	if n, ok := lengths[f.Type]; ok && f.Length != n || f.Type == http2.GoAway && f.Length < http2.GoAwaySize ||
		f.Type == http2.Settings && f.Has(http2.Ack) && f.Length > 0 {
		return &fatal{http2.FrameSizeError, "a frame of the wrong length"}
	}
	if err := w.annoy(1); err != nil {
		return err
	}
	if f.Type == http2.Ping {
		if !f.Has(http2.Ack) {
			w.out = http2.AppendPong(w.out, p)
			w.own += http2.FrameHeader + len(p)
		}
		return nil
	}
	return take(f, p)
}

// annoy counts a frame that serves no stream. The error is a *fatal.
func (w *wire) annoy(cost int) error {
	if w.noise.add(cost) {
		return &fatal{http2.EnhanceYourCalm, "too many frames that serve no stream"}
	}
	return nil
}

// maxParts is how many frames a block may be cut into: a block of the greatest size needs four, careless senders more.
const maxParts = 32

func (w *wire) start(f http2.Frame, p []byte) error {
	rest, ok := f.Unpad(p)
	if !ok {
		return &fatal{http2.ProtocolError, "padding that is longer than its frame"}
	}
	if on, ok := f.DependsOn(p); ok && on == f.Stream {
		f.Flags |= dependsOnItself
	}
	f.Flags &^= http2.Padded | http2.Prioritised
	w.begun, w.parts = f, 1
	w.pieces = append(w.pieces[:0], rest...)
	return nil
}

// dependsOnItself is a flag that HEADERS do not have on the wire, for what was known of them before their block was complete.
const dependsOnItself = 0x80

func (w *wire) continued(f http2.Frame, p []byte, take func(http2.Frame, []byte) error) error {
	if f.Type != http2.Continuation || f.Stream != w.begun.Stream {
		return &fatal{http2.ProtocolError, "a frame within a header block"}
	}
	if w.parts++; w.parts > maxParts || len(w.pieces)+len(p) > http2.MaxBlock {
		return &fatal{http2.EnhanceYourCalm, "a header block that is too long"}
	}
	w.pieces = append(w.pieces, p...)
	if !f.Has(http2.EndHeaders) {
		return nil
	}
	whole := w.begun
	whole.Flags |= http2.EndHeaders
	w.begun.Stream = 0
	err := take(whole, w.pieces)
	if cap(w.pieces) > http2.MaxPayload {
		w.pieces = nil
	}
	return err
}

// bare is the block of HEADERS without padding and priority.
func (w *wire) bare(f http2.Frame, p []byte) ([]byte, error) {
	block, ok := f.Unpad(p)
	if !ok {
		return nil, &fatal{http2.ProtocolError, "padding that is longer than its frame"}
	}
	return block, nil
}

// decode reads a block, and returns what means the same to whoever it is sent on to. A fault is that of a message, err a *fatal.
func (w *wire) decode(block []byte) (anew []byte, fault, err error) {
	if fault = w.decoder.Read(&w.block, block); errors.Is(fault, http2.ErrCompression) {
		return nil, nil, &fatal{http2.CompressionError, "a header block that cannot be read"}
	}
	if w.block.Stateless {
		return block[w.block.Prefix:], fault, nil
	}
	w.anew = w.block.AppendFields(w.anew[:0])
	return w.anew, fault, nil
}

// headers appends a block to what is sent to the peer.
func (w *wire) headers(stream uint32, block []byte, end bool) {
	var before []byte
	if w.fresh {
		before, w.fresh = http2.NoTable, false
	}
	w.out = http2.AppendBlock(w.out, stream, before, block, end)
	w.blocks.waiting += int64(len(block))
	w.m.hold(int64(len(block)))
}

// received counts bytes of a body, with their padding. The error is a *fatal.
func (w *wire) received(n int) error {
	if w.recv -= int64(n); w.recv < 0 {
		return &fatal{http2.FlowControlError, "more than the connection's window"}
	}
	w.held += int64(n)
	w.m.e.held.Add(int64(n))
	return w.m.full(nil)
}

// full says that all connections together hold too much, where something waits for w; nil: it does. The error is a *fatal.
func (m *mux) full(w *wire) error {
	if (w == nil || len(w.out) > highWater) && m.e.held.Load() > maxHeld {
		return &fatal{http2.EnhanceYourCalm, "too much is held for who does not take it"}
	}
	return nil
}

// credit gives the peer back what was passed on, or will not be.
func (w *wire) credit(n int64) {
	if n == 0 || w.gone {
		return
	}
	w.held -= n
	w.m.e.held.Add(-n)
	paid := max(0, w.lent-w.held) // what is not held any more is not lent
	w.lent -= paid
	w.owe(n - paid)
}

// lend has the peer send as much again as waits for a server that does not take it, which is not what others have to wait for.
func (w *wire) lend(n int64) {
	if n > 0 && w.lent+n <= maxLent && w.m.e.held.Load() < maxHeld/2 {
		w.lent += n
		w.owe(n)
	}
}

func (w *wire) owe(n int64) {
	if w.owed += n; w.owed >= w.size/2 {
		w.out = http2.AppendWindowUpdate(w.out, 0, w.owed)
		w.recv += w.owed
		w.owed = 0
	}
}
