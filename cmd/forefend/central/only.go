package central

import (
	"net"
	"sync"
)

// only is a listener of one connection, which is there already: a ttrpc server does not tell its methods who calls, so each node has
// one of its own. It ends with the connection.
type only struct {
	addr net.Addr
	next chan net.Conn
	gone chan struct{}
	once sync.Once
	conn *watched
}

func newOnly(conn net.Conn) *only {
	o := &only{addr: conn.LocalAddr(), next: make(chan net.Conn, 1), gone: make(chan struct{})}
	o.conn = &watched{Conn: conn, closed: func() { o.once.Do(func() { close(o.gone) }) }}
	o.next <- o.conn
	return o
}

// watched tells that it was closed.
type watched struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (w *watched) Close() error {
	err := w.Conn.Close()
	w.closed()
	return err
}

// Accept implements net.Listener.
func (o *only) Accept() (net.Conn, error) {
	select {
	case c := <-o.next:
		return c, nil
	case <-o.gone:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The connection goes on.
func (o *only) Close() error { return nil }

// Addr implements net.Listener.
func (o *only) Addr() net.Addr { return o.addr }

// end closes the connection.
func (o *only) end() { _ = o.conn.Close() }
