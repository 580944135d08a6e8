// Package reception takes the connections of a port that is open to a network: callers prove by a certificate who they are (TLS), and neither
// some of them nor a crowd of strangers keep the others out. Central decisions and gateways of tunnels are asked through it.
//
// Not for: what callers say afterwards, and sockets of the machine itself (package door).
package reception

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"golang.org/x/time/rate"
)

// Terms are how callers are taken.
type Terms struct {
	Guests    int           // connections at once of callers that have proved a name; beyond it the name that has most makes room for one that has less
	OfOne     int           // of them, of one name
	Greetings int           // connections at once that have proved no name yet
	Within    time.Duration // for that
	Rate      rate.Limit    // of the questions of one name, per second
	Burst     int           // of them at once

	// TLS is how the next connection is taken. It must ask for certificates and verify them.
	TLS func() (*tls.Config, error)
	// Name is by which a certificate's connections and questions are counted. Whom it refuses is a stranger.
	Name func(*x509.Certificate) (string, error)
	// Tell is told of connections that are not taken, each kind once in ten seconds or a few at once. It may be called from any goroutine.
	Tell func(Refusal)
}

// Refusal is a connection that was not taken.
type Refusal struct {
	Why  error    // wraps ErrCrowded where it had proved a name
	From net.Addr // whose it was
	Name string   // "": it has proved none
	Left uint64   // refusals of the kind before it that nobody was told of
}

// Log is the line of it for the log, but for who says it. caller is the field that has the name.
func (r Refusal) Log(caller string) *log.Entry {
	l := log.L.WithError(r.Why).WithField("from", r.From.String())
	if r.Name != "" {
		l = l.WithField(caller, r.Name)
	}
	if r.Left > 0 {
		l = l.WithField("before", r.Left)
	}
	return l
}

// ErrCrowded says that a name, or all together, have as many connections as they may.
var ErrCrowded = errors.New("there are connections enough")

// Counts is what was refused.
type Counts struct {
	Strangers uint64 // connections that have proved no name
	Crowding  uint64 // connections of a name that has enough, while all have enough, or that made room for another name's
	Hasty     uint64 // messages beyond the rate of a name
}

// Reception has the bounds of one port. Its methods may be called from any goroutine.
type Reception struct {
	terms Terms

	mu        sync.Mutex
	names     map[string]*account // guarded by mu, as is all that follows
	guests    int
	count     Counts
	strangers telling
	crowds    telling
}

// account is what one name has.
type account struct {
	guests map[*held]bool // guarded by Reception.mu
	limit  *rate.Limiter
}

// idle tells whether nothing would be lost with it.
func (a *account) idle() bool {
	return len(a.guests) == 0 && a.limit.Tokens() >= float64(a.limit.Burst())
}

// New makes a reception.
func New(t Terms) *Reception {
	return &Reception{terms: t, names: make(map[string]*account), strangers: newTelling(), crowds: newTelling()}
}

// Counts tells what was refused since the reception was made.
func (r *Reception) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Guests is how many connections there are whose callers have proved a name.
func (r *Reception) Guests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guests
}

// enter counts a connection of a name. The error wraps ErrCrowded. Where another name's had to make room for it, that is out: it is not counted any
// more, and the caller ends it.
func (r *Reception) enter(name string, h *held) (of *account, out *held, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of = r.names[name]
	if of == nil {
		of = &account{guests: make(map[*held]bool), limit: rate.NewLimiter(r.terms.Rate, r.terms.Burst)}
		r.names[name] = of
	}
	switch {
	case len(of.guests) >= r.terms.OfOne:
		err = fmt.Errorf("its name has %d: %w", len(of.guests), ErrCrowded)
	case r.guests >= r.terms.Guests:
		if out = r.roomLocked(len(of.guests)); out == nil {
			err = fmt.Errorf("all together have %d: %w", r.guests, ErrCrowded)
		}
	}
	if err != nil {
		r.forgetLocked(name)
		return nil, nil, err
	}
	of.guests[h] = true
	r.guests++
	if out != nil {
		r.leaveLocked(out)
	}
	return of, out, nil
}

// roomLocked is the connection that makes room for one of a name that has some: of the names that have most, the one that has been silent for
// longest; nil where they would have less than that name then. So no number of names that take all they may takes another's share.
func (r *Reception) roomLocked(has int) (out *held) {
	most := has + 2
	for _, of := range r.names {
		if len(of.guests) < most {
			continue
		}
		if len(of.guests) > most {
			most, out = len(of.guests), nil
		}
		for h := range of.guests {
			if out == nil || h.heard.Load() < out.heard.Load() {
				out = h
			}
		}
	}
	return out
}

// leave counts a connection no more. It may be called again.
func (r *Reception) leave(h *held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked(h)
}

func (r *Reception) leaveLocked(h *held) {
	if of := r.names[h.guest.Name]; of != nil && of.guests[h] {
		delete(of.guests, h)
		r.guests--
		r.forgetLocked(h.guest.Name)
	}
}

// forgetLocked forgets a name that owes nothing, and all of them once there are many.
func (r *Reception) forgetLocked(name string) {
	if r.names[name].idle() {
		delete(r.names, name)
	}
	if len(r.names) <= r.terms.Guests {
		return
	}
	for name, of := range r.names {
		if of.idle() {
			delete(r.names, name)
		}
	}
}

// refuse counts a connection that is not taken, and tells of it unless that was done often enough.
func (r *Reception) refuse(f Refusal) {
	r.mu.Lock()
	kind := &r.strangers
	if errors.Is(f.Why, ErrCrowded) {
		kind = &r.crowds
		r.count.Crowding++
	} else {
		r.count.Strangers++
	}
	now := kind.limit.Allow()
	if f.Left = kind.left; now {
		kind.left = 0
	} else {
		kind.left++
	}
	r.mu.Unlock()
	if now {
		r.terms.Tell(f)
	}
}

// telling bounds how often one kind of refusal is told.
type telling struct {
	limit *rate.Limiter
	left  uint64 // not told since one was; guarded by Reception.mu
}

const (
	tellEvery = 10 * time.Second
	tellBurst = 5
)

func newTelling() telling { return telling{limit: rate.NewLimiter(rate.Every(tellEvery), tellBurst)} }

// Guest is a connection whose caller has proved a name.
type Guest struct {
	*tls.Conn
	Name  string
	Until time.Time // when its certificate ends

	of *account
	r  *Reception
}

// May tells whether the caller may ask n questions now.
func (g *Guest) May(n int) bool {
	if g.of.limit.AllowN(time.Now(), n) {
		return true
	}
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	g.r.count.Hasty++
	return false
}

// greet has a caller prove its name. What it returns is counted until it is closed.
func (r *Reception) greet(ctx context.Context, raw *held) (*Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, r.terms.Within)
	defer cancel()
	cfg, err := r.terms.TLS()
	if err != nil {
		return nil, err
	}
	conn := tls.Server(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	leaf := conn.ConnectionState().PeerCertificates[0] // one was required
	name, err := r.terms.Name(leaf)
	if err != nil {
		return nil, err
	}
	g := &Guest{Conn: conn, Name: name, Until: leaf.NotAfter, r: r}
	raw.guest = g // before others see it
	of, out, err := r.enter(name, raw)
	if err != nil {
		return g, err
	}
	g.of = of
	if out != nil {
		_ = out.Conn.Close() // who serves it is told by that
		r.refuse(Refusal{Why: fmt.Errorf("it made room, no name had more: %w", ErrCrowded), From: out.RemoteAddr(), Name: out.guest.Name})
	}
	return g, nil
}

// held is what is below the TLS of a connection.
type held struct {
	net.Conn
	heard atomic.Int64 // when it has said something the last time
	guest *Guest       // nil: it has proved no name
}

// Read implements net.Conn.
func (h *held) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.heard.Store(time.Now().UnixNano())
	return n, err
}

// Close implements net.Conn.
func (h *held) Close() error {
	err := h.Conn.Close()
	if h.guest != nil {
		h.guest.r.leave(h)
	}
	return err
}
