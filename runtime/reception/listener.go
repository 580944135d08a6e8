package reception

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// Listener is a net.Listener whose connections have proved a name: each is a *tls.Conn, and Of its Guest.
type Listener struct {
	raw    net.Listener
	r      *Reception
	life   context.Context // of greetings; ended by Close
	end    context.CancelFunc
	guests chan *Guest
	failed chan error // of raw, one
	new    greetings
	all    sync.WaitGroup
}

var _ net.Listener = (*Listener)(nil)

// Listen takes the connections of l, which Close closes.
func (r *Reception) Listen(l net.Listener) *Listener {
	out := &Listener{raw: l, r: r, guests: make(chan *Guest), failed: make(chan error, 1), new: greetings{most: r.terms.Greetings}}
	out.life, out.end = context.WithCancel(context.Background())
	out.all.Go(func() { out.failed <- out.take() })
	return out
}

// take has every caller greet, beside one another, until the socket is closed.
func (l *Listener) take() error {
	for {
		raw, err := l.raw.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			select { // descriptors or memory have run out; some come back when connections end
			case <-time.After(50 * time.Millisecond):
			case <-l.life.Done():
				return net.ErrClosed
			}
			continue
		}
		l.new.add(raw)
		l.all.Go(func() { l.receive(raw) })
	}
}

// receive hands a caller on once it has proved a name.
func (l *Listener) receive(raw net.Conn) {
	h := &held{Conn: raw}
	g, err := l.r.greet(l.life, h)
	if pushed := l.new.remove(raw); pushed && err != nil {
		err = errPushed
	}
	if err != nil {
		refusal := Refusal{Why: err, From: raw.RemoteAddr()}
		if g != nil {
			refusal.Name = g.Name
		}
		if l.life.Err() == nil {
			l.r.refuse(refusal)
		}
		_ = h.Close()
		return
	}
	select {
	case l.guests <- g:
	case <-l.life.Done():
		_ = g.Close()
	}
}

// Next waits for a caller. After Close, or where the socket was closed, the error wraps net.ErrClosed.
func (l *Listener) Next() (*Guest, error) {
	select {
	case g := <-l.guests:
		return g, nil
	case err := <-l.failed:
		l.failed <- err
		return nil, err
	case <-l.life.Done():
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	g, err := l.Next()
	if err != nil {
		return nil, err
	}
	return g.Conn, nil
}

// Close implements net.Listener: it ends greetings, and leaves connections that were handed on as they are.
func (l *Listener) Close() error {
	l.end()
	err := l.raw.Close()
	l.all.Wait()
	return err
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.raw.Addr() }

// Of is the caller of a connection that Accept returned, nil for others.
func Of(c net.Conn) *Guest {
	if t, ok := c.(*tls.Conn); ok {
		if h, ok := t.NetConn().(*held); ok {
			return h.guest
		}
	}
	return nil
}
