package central

import (
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// peers are the nodes that are connected, by the name of their certificate.
type peers struct {
	perSecond int

	mu    sync.Mutex
	conns map[string]*peer // guarded by mu
	count Counts           // guarded by mu
}

type peer struct {
	conns int // guarded by peers.mu
	limit *rate.Limiter
}

func newPeers(perSecond int) *peers {
	return &peers{perSecond: perSecond, conns: make(map[string]*peer)}
}

// enter counts a connection of a name; nil: it has as many as it may.
func (p *peers) enter(name string) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.conns[name]
	if of == nil {
		// A burst is a second's worth, and at least a full message: what was asked while the rules changed.
		of = &peer{limit: rate.NewLimiter(rate.Limit(p.perSecond), max(p.perSecond, 256))}
		p.conns[name] = of
	}
	if of.conns >= maxConnsOf {
		p.count.Crowding++
		return nil
	}
	of.conns++
	return of
}

func (p *peers) leave(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.conns[name]
	if of.conns--; of.conns == 0 && of.limit.Tokens() >= float64(of.limit.Burst()) {
		delete(p.conns, name)
	}
	p.sweepLocked()
}

// sweepLocked forgets names that are gone and owe nothing, once there are many.
func (p *peers) sweepLocked() {
	if len(p.conns) <= maxConns {
		return
	}
	for name, of := range p.conns {
		if of.conns == 0 && of.limit.Tokens() >= float64(of.limit.Burst()) {
			delete(p.conns, name)
		}
	}
}

// may tells whether a node may ask n questions now.
func (p *peers) may(of *peer, n int, now time.Time) bool {
	if of.limit.AllowN(now, n) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.Hasty++
	return false
}

func (p *peers) stranger() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.Strangers++
}

func (p *peers) counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// allowed returns the first of the names that one of the patterns allows.
func allowed(names, patterns []string) (string, bool) {
	for _, name := range names {
		for _, pattern := range patterns {
			if ok, _ := path.Match(pattern, name); ok { // patterns were checked with the configuration
				return name, true
			}
		}
	}
	return "", false
}

// greetings are the connections that have not proved a name yet, the oldest first.
type greetings struct {
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// add notes a connection and ends the oldest where there are too many: who is honest is done in milliseconds.
func (g *greetings) add(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns = append(g.conns, c); len(g.conns) > maxGreetings {
		_ = g.conns[0].Close() // its greeting fails and removes it
		g.conns = g.conns[1:]
	}
}

func (g *greetings) remove(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.conns, c); i >= 0 {
		g.conns = slices.Delete(g.conns, i, i+1)
	}
}
