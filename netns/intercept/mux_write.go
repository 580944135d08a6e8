package intercept

import (
	"time"

	"golang.org/x/sys/unix"
)

// flush sends what is to be sent, as far as sockets take it. The caller holds mu, which is free meanwhile.
func (m *mux) flush() {
	for w := m.writable(); w != nil; w = m.writable() {
		b := w.takeOut()
		n, err := 0, error(nil)
		if w.side.tls == nil {
			m.mu.Unlock()
			n, err = w.writeSome(b)
			m.mu.Lock()
		}
		if err == nil && n < len(b) {
			m.running.Add(1)
			go m.drain(w, b, n)
			continue
		}
		m.written(w, b, err)
	}
}

// writable is a connection to which something is to be sent and nobody does. After the end there is none.
func (m *mux) writable() *wire {
	if m.over {
		return nil
	}
	if m.client.idle() {
		m.client.writing = true
		return &m.client
	}
	for _, l := range m.links {
		if l.ready && l.idle() {
			l.writing = true
			return &l.wire
		}
	}
	return nil
}

func (w *wire) idle() bool { return len(w.out) > 0 && !w.writing && !w.failed }

// takeOut takes what is to be sent.
func (w *wire) takeOut() []byte {
	b := w.out
	w.out, w.spare, w.own = w.spare[:0], nil, 0
	w.blocks.begin()
	for _, l := range w.m.links {
		if w == &w.m.client {
			l.down.begin()
		} else if w == &l.wire {
			l.up.begin()
		}
	}
	return b
}

// written does what follows the sending of b. The caller holds mu.
func (m *mux) written(w *wire, b []byte, err error) {
	w.writing = false
	m.hold(-w.blocks.done())
	if cap(b) <= 2*readSize {
		w.spare = b[:0]
	}
	if err != nil {
		w.failed, w.out = true, nil
	}
	if w != &m.client {
		for _, l := range m.links {
			if w == &l.wire {
				m.client.credit(l.up.done())
				l.endUnused()
			}
		}
		return
	}
	for _, l := range m.links {
		l.credit(l.down.done())
	}
	m.drained.Broadcast()
	if err != nil {
		go m.s.abort() // not here: it waits for who reads the client, and that may be us
	}
}

// drain sends what the socket did not take at once, and what comes after it meanwhile.
func (m *mux) drain(w *wire, b []byte, n int) {
	defer m.running.Done()
	for {
		err := w.side.write(b[n:])
		m.mu.Lock()
		m.written(w, b, err)
		if m.over || !w.idle() {
			break
		}
		w.writing = true
		b, n = w.takeOut(), 0
		m.mu.Unlock()
	}
	m.flush()
	m.mu.Unlock()
}

// writeSome writes what the socket takes now.
func (w *wire) writeSome(b []byte) (int, error) {
	w.writeB, w.writeN, w.writeErr = b, 0, nil
	if err := w.side.raw.Write(w.tryWrite); err != nil {
		return 0, err
	}
	return w.writeN, w.writeErr
}

func (w *wire) writeNow(fd uintptr) bool {
	for w.writeN < len(w.writeB) {
		n, errno := quick(unix.SYS_WRITE, fd, w.writeB[w.writeN:])
		switch errno {
		case 0:
			w.writeN += n
		case unix.EINTR:
		case unix.EAGAIN:
			return true
		default:
			w.writeErr = errno
			return true
		}
	}
	return true
}

// transit counts bytes of bodies on their way out.
type transit struct{ waiting, sending int64 }

func (t *transit) begin() { t.sending, t.waiting = t.waiting, 0 }

func (t *transit) done() (n int64) {
	n, t.sending = t.sending, 0
	return n
}

// noise counts what serves no stream: as much as a number at once, and as much a second.
type noise struct {
	n  int
	at time.Time
}

// Bounds of noise: frames, or streams, at once and each second.
const (
	maxNoise  = 1000
	noiseRate = 200
)

// calm takes back as much as bytes that serve a stream may bring along: a client says of every kilobyte that it has read it.
func (n *noise) calm(bytes int) { n.n = max(0, n.n-4-bytes/256) }

// add counts, and tells whether it is too much.
func (n *noise) add(cost int) bool {
	if n.n += cost; n.n <= maxNoise {
		return false
	}
	now := time.Now()
	if n.at.IsZero() {
		n.at = now.Add(-time.Second)
	}
	if paid := int(now.Sub(n.at).Seconds() * noiseRate); paid > 0 {
		n.n, n.at = max(0, n.n-paid), now
	}
	return n.n > maxNoise
}
