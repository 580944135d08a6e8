package reception

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// errPushed is why a greeting ended for which there was no room.
var errPushed = errors.New("too many connections at once have proved no name, of its network most")

// greetings are the connections that have not proved a name yet, the oldest first.
type greetings struct {
	most int

	mu    sync.Mutex
	conns []greeting // guarded by mu
}

type greeting struct {
	conn net.Conn
	from netip.Prefix
}

// add notes a connection. Where there are too many it ends the oldest of the network that has most: who is honest is done in
// milliseconds, and a crowd that comes from elsewhere does not take even these from it.
func (g *greetings) add(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, greeting{c, network(c.RemoteAddr())})
	if len(g.conns) <= g.most {
		return
	}
	of := make(map[netip.Prefix]int)
	crowd := 0
	for _, one := range g.conns {
		of[one.from]++
		crowd = max(crowd, of[one.from])
	}
	oldest := slices.IndexFunc(g.conns, func(one greeting) bool { return of[one.from] == crowd })
	_ = g.conns[oldest].conn.Close() // its greeting fails
	g.conns = slices.Delete(g.conns, oldest, oldest+1)
}

// remove forgets a connection, and tells whether add has ended it.
func (g *greetings) remove(c net.Conn) (pushed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.conns, func(one greeting) bool { return one.conn == c })
	if i < 0 {
		return true
	}
	g.conns = slices.Delete(g.conns, i, i+1)
	return false
}

// network is what one caller can have addresses of without effort: of IPv6 a /64.
func network(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	at := t.AddrPort().Addr().Unmap().WithZone("")
	bits := at.BitLen()
	if at.Is6() {
		bits = 64
	}
	p, _ := at.Prefix(bits)
	return p
}
