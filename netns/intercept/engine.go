package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Engine intercepts the connections of one network namespace.
type Engine struct {
	decider    Decider
	dialer     Dialer
	keeper     Keeper // the dialer; nil: it keeps all connections
	limits     atomic.Pointer[Limits]
	settings   atomic.Pointer[Settings]
	finder     Finder     // nil: there is none
	attributor Attributor // likewise
	watch      *watcher
	ctx        context.Context // of decisions and dials; ends with Close
	stop       context.CancelFunc
	running    sync.WaitGroup
	next       chan *session // to a goroutine that has served one
	resting    atomic.Int32  // how many of those wait

	count    counters
	flows    table
	rates    rates
	spoke    hints
	lookups  lookups
	accounts accounts
	epoch    atomic.Uint64 // how often rules changed
	held     atomic.Int64  // bytes of HTTP/2 bodies and heads that somebody does not take

	mu        sync.Mutex
	closed    bool                  // guarded by mu
	sessions  map[*session]struct{} // guarded by mu
	listeners []net.Listener        // guarded by mu
	packets   []*net.UDPConn        // guarded by mu
}

// New makes an engine. It needs Settings before it serves; Close ends it.
func New(d Decider, t Dialer, l Limits) (*Engine, error) {
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	e := &Engine{dialer: t, watch: w, sessions: make(map[*session]struct{}), next: make(chan *session)}
	e.keeper, _ = t.(Keeper)
	e.accounts.since = time.Now()
	e.decider = restrict(e, d)
	e.lookups.pend = make(chan struct{}, maxPending)
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.settings.Store(&Settings{})
	l = orDefault(l)
	e.limits.Store(&l)
	e.running.Go(w.run)
	return e, nil
}

// Find has the engine ask f who opened a connection, where a rule asks. It comes before Serve.
func (e *Engine) Find(f Finder) { e.finder = f }

// Set has requests understood by s from the next one on. s belongs to the engine then.
func (e *Engine) Set(s *Settings) {
	if s.Limits != nil {
		l := orDefault(*s.Limits)
		e.limits.Store(&l)
	}
	s.answers = &e.lookups.known
	s.share()
	before := e.settings.Swap(s)
	if !reflect.DeepEqual(before.Contacts, s.Contacts) || !reflect.DeepEqual(before.Containers, s.Containers) {
		e.Redecide()
	}
}

// Listen makes the two listeners that nft's redirect leads to, on one port of 127.0.0.1 and ::1; port 0 is any that is
// free on both. Where there is no IPv6, there is one.
func Listen(port uint16) ([]net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1} // clients are in the same namespace: they do not vanish
	for range 16 {
		v4, err := config.Listen(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return nil, err
		}
		at := v4.Addr().(*net.TCPAddr).Port
		v6, err := config.Listen(context.Background(), "tcp6", fmt.Sprintf("[::1]:%d", at))
		switch {
		case err == nil:
			return []net.Listener{v4, v6}, nil
		case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
			return []net.Listener{v4}, nil
		}
		_ = v4.Close()
		if port != 0 || !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, errors.New("no port is free on both 127.0.0.1 and ::1")
}

// Serve takes the connections that are redirected to a listener until Close, or until the listener fails.
func (e *Engine) Serve(l net.Listener) error {
	listener, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("intercept: listener of %T, not TCP", l)
	}
	e.mu.Lock()
	e.listeners = append(e.listeners, l)
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			if isTemporary(err) {
				e.pause()
				continue
			}
			return err
		}
		to, err := original(conn)
		if err != nil {
			e.count.direct.Add(1)
			reset(conn)
			continue
		}
		e.start(conn, to)
	}
}

// ServeConn takes one connection that was going to an address. It returns at once.
func (e *Engine) ServeConn(conn *net.TCPConn, to netip.AddrPort) { e.start(conn, to) }

func (e *Engine) start(conn *net.TCPConn, to netip.AddrPort) {
	s := &session{e: e, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), gone: make(chan struct{})}
	e.mu.Lock()
	if full := len(e.sessions) >= e.limits.Load().Connections; full || e.closed {
		e.mu.Unlock()
		if full {
			e.count.refused.Add(1)
		}
		reset(conn)
		return
	}
	e.sessions[s] = struct{}{}
	e.running.Add(1)
	e.mu.Unlock()
	e.count.connections.Add(1)
	if err := s.client.init(conn); err != nil {
		s.leave()
		reset(conn)
		return
	}
	select {
	case e.next <- s:
	default:
		e.running.Go(func() { e.work(s) })
	}
}

// mostResting is how many goroutines wait for a next connection. Their stacks have grown to what one needs, which would be a twelfth of
// the work for a short one.
const mostResting = 8

// work serves a connection, and then others.
func (e *Engine) work(s *session) {
	for {
		s.run()
		s = nil // it is not kept alive here
		if e.resting.Add(1) > mostResting {
			e.resting.Add(-1)
			return
		}
		select {
		case s = <-e.next:
			e.resting.Add(-1)
		case <-e.ctx.Done():
			e.resting.Add(-1)
			return
		}
	}
}

// Close ends all connections and waits until nothing of the engine is left.
func (e *Engine) Close() {
	e.stop()
	e.mu.Lock()
	e.closed = true
	listeners, packets, sessions := e.listeners, e.packets, make([]*session, 0, len(e.sessions))
	for s := range e.sessions {
		sessions = append(sessions, s)
	}
	e.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // it may be closed
	}
	for _, l := range packets {
		_ = l.Close() // likewise
	}
	for _, s := range sessions {
		s.abort()
	}
	e.watch.close()
	e.running.Wait()
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // a closed one needs none
	_ = conn.Close()
}

// hints remember servers that spoke first, so that their next clients need not be waited for.
type hints struct {
	mu    sync.Mutex
	first []netip.AddrPort // the latest last; guarded by mu
}

const maxHints = 256

func (h *hints) add(a netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.first, a) {
		return
	}
	if len(h.first) == maxHints {
		h.first = slices.Delete(h.first, 0, 1)
	}
	h.first = append(h.first, a)
}

func (h *hints) has(a netip.AddrPort) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.first, a)
}
