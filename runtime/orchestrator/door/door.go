package door

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

// Limits are the bounds of a Door.
type Limits struct {
	Conns       int           // connections; one more closes the one that has been idle for longest
	CallsOfOne  int           // calls of one connection without an answer; more wait in its socket
	Message     int           // bytes of one message
	Waiting     int           // bytes of all messages that are not whole, or wait for their turn; more close the largest one's connection
	MessageTime time.Duration // from the first byte of a message to its last
	AnswerTime  time.Duration // for a peer to take what does not fit into its socket's buffer
	Calls       Class         // calls under way
	Large       Class         // of them, those whose message has LargeFrom bytes or more, which have turns of their own
	LargeFrom   int
	// Classes gives named methods turns of their own: those whose answer is
	// large whatever their request, and those that wait.
	Classes map[string]Class
}

// Class is a set of calls that share a number of turns.
type Class struct {
	Name  string
	Turns int // the same wherever a class is named
}

// stalled is how long a peer may leave an answer lying while others wait for
// what it holds, and how long again after that was seen.
const stalled = 250 * time.Millisecond

// turns has room for as many values as calls may be under way.
type turns chan struct{}

// Door is the bounds of one server.
type Door struct {
	limits       Limits
	peers        ttrpc.Handshaker // who may come in at all
	calls, large turns
	classes      map[string]turns // by method

	mu      sync.Mutex
	conns   map[*conn]struct{} // guarded by mu
	waiting int                // bytes of messages that have no turn yet; guarded by mu
	counts  Counts             // guarded by mu
}

// Counts is what a Door had to refuse since it was made.
type Counts struct {
	Idle    uint64 // connections closed because there were too many
	Slow    uint64 // and those of peers that did not finish a message, or left an answer lying
	Invalid uint64 // and those of peers that do not speak the protocol
}

// New returns a Door with these limits. peers says who may come in.
func New(peers ttrpc.Handshaker, l Limits) *Door {
	d := &Door{
		limits: l, peers: peers, conns: make(map[*conn]struct{}), classes: make(map[string]turns),
		calls: make(turns, l.Calls.Turns), large: make(turns, l.Large.Turns),
	}
	named := make(map[string]turns)
	for method, class := range l.Classes {
		if named[class.Name] == nil {
			named[class.Name] = make(turns, class.Turns)
		}
		d.classes[method] = named[class.Name]
	}
	return d
}

// Handshake implements ttrpc.Handshaker.
func (d *Door) Handshake(ctx context.Context, raw net.Conn) (net.Conn, any, error) {
	approved, data, err := d.peers.Handshake(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	return d.admit(approved), data, nil
}

// Counts returns what had to be refused.
func (d *Door) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

func (d *Door) admit(raw net.Conn) *conn {
	life, end := context.WithCancel(context.Background())
	c := &conn{
		Conn: raw, door: d, life: life, end: end, in: bufio.NewReader(raw),
		since: time.Now(), open: make(map[uint32]func()), room: make(chan struct{}, 1),
	}
	d.mu.Lock()
	var excess *conn
	if len(d.conns) >= d.limits.Conns {
		excess = d.longestIdleLocked()
	}
	d.conns[c] = struct{}{}
	d.mu.Unlock()
	if excess != nil {
		excess.refuse(&d.counts.Idle)
	}
	return c
}

// longestIdleLocked returns the connection on which nothing has happened for
// longest, of those without a call under way if there is one. d.mu is held.
func (d *Door) longestIdleLocked() (found *conn) {
	for _, busyToo := range []bool{false, true} {
		var oldest time.Time
		for c := range d.conns {
			since, busy := c.idle()
			if (busyToo || !busy) && (found == nil || since.Before(oldest)) {
				found, oldest = c, since
			}
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// hold notes that c has n bytes more of a message that has no turn yet, and
// makes room by closing whoever has most.
func (d *Door) hold(c *conn, n int) {
	d.mu.Lock()
	d.waiting += n
	c.held += n
	var most *conn
	if d.waiting > d.limits.Waiting {
		for other := range d.conns {
			if most == nil || other.held > most.held {
				most = other
			}
		}
	}
	d.mu.Unlock()
	if most != nil {
		most.refuse(&d.counts.Slow)
	}
}

// release notes that c's message has its turn, or will never have one.
func (d *Door) release(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting -= c.held
	c.held = 0
}

// enter waits for a call's turn and returns what ends it. Peers that hold a turn
// and do not take their answer lose it to those who wait.
func (d *Door) enter(life context.Context, request []byte) (leave func(), err error) {
	turn, named := d.classes[methodOf(request)]
	switch {
	case named:
	case len(request) >= d.limits.LargeFrom:
		turn = d.large
	default:
		turn = d.calls
	}
	leave = func() { <-turn }
	select {
	case turn <- struct{}{}:
		return leave, nil
	default:
	}
	tick := time.NewTicker(stalled)
	defer tick.Stop()
	for {
		select {
		case turn <- struct{}{}:
			return leave, nil
		case <-tick.C:
			d.refuseStalled()
		case <-life.Done():
			return nil, net.ErrClosed
		}
	}
}

func (d *Door) refuseStalled() {
	d.mu.Lock()
	var lazy []*conn
	for c := range d.conns {
		if c.stalls() {
			lazy = append(lazy, c)
		}
	}
	d.mu.Unlock()
	for _, c := range lazy {
		c.refuse(&d.counts.Slow)
	}
}

func (d *Door) forget(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
	d.waiting -= c.held
	c.held = 0
}

func (d *Door) count(which *uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*which++
}
