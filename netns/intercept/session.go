package intercept

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/hello"
)

// session is one client's connection. Its goroutine, run, does nearly all: it reads the client and the servers in turn, and
// has helpers only while both directions are busy at once.
type session struct {
	e      *Engine
	client side
	to     netip.AddrPort
	memo   memo
	gone   chan struct{} // closed by abort
	once   sync.Once     // of abort

	mu       sync.Mutex
	phase    phase              // guarded by mu
	ups      []*upstream        // connections to servers, the last used last; guarded by mu
	finished bool               // the client sends no more; guarded by mu
	alone    bool               // nothing that was read comes after the request under way; guarded by mu
	dialing  context.CancelFunc // of the dial under way; nil: none is; guarded by mu

	rates  []flow.Rate // what limits was made of
	user   string
	limits *limits

	process atomic.Pointer[caller] // who opened the connection; nil: no rule asked

	container, unattributed string // which container did, of several; why that is not known
}

// phase says what a hang-up means.
type phase uint8

const (
	busy      phase = iota // whoever reads will notice
	idle                   // the client's next request is awaited
	waiting                // the request was sent, nobody reads the client
	uploading              // the response is over, the request's body is not
)

// upstream is a connection to a server.
type upstream struct {
	side
	route routeKey
	flow  live
	used  bool        // it has carried a request
	hung  atomic.Bool // the server sends no more
	fin   bool        // we send no more; guarded by the session's mu
	alive bool        // the kernel finds out when the server vanishes
}

// routeKey is what makes two requests go the same way.
type routeKey struct {
	to         netip.AddrPort
	encryption flow.Encryption
	dedicated  bool
	user       string // of a dedicated tunnel
	endpoint   string
	qos        string
	tls        string // the name to be checked, where TLS is originated
}

func route(c *flow.Context, d *flow.Decision) routeKey {
	p := &d.Profile
	k := routeKey{to: c.Destination, encryption: p.Encryption, dedicated: p.Dedicated, endpoint: p.Endpoint, qos: p.QoS}
	if k.dedicated {
		k.user = c.User
	}
	return k
}

// maxUpstreams is how many ways one client's connection may have open at once.
const maxUpstreams = 4

// partialWait is how long the rest of a first line may take before the server may see its beginning.
const partialWait = 300 * time.Millisecond

func (s *session) run() {
	defer s.leave()
	s.attribute()
	if s.to.Port() == domain {
		if is, ok := s.beginsQuery(); is || !ok {
			if is {
				s.serveQueries()
			}
			return
		}
	}
	p, known := s.first()
	switch p {
	case flow.HTTP:
		s.serveRequests()
	case flow.TLS:
		s.serveTLS()
	case flow.Opaque:
		s.serveOpaque(known)
	}
}

// serveRequests serves HTTP in the version that the client speaks.
func (s *session) serveRequests() {
	if !beginsHTTP2(s.client.buf.bytes()) {
		s.serveHTTP()
		return
	}
	for _, up := range s.upstreams() {
		s.drop(up, false)
	}
	s.serveHTTP2()
}

// leave closes what is open and ends the session.
func (s *session) leave() {
	s.client.end(s.e.watch, false)
	s.client.buf.drop()
	for _, up := range s.upstreams() {
		s.drop(up, false)
	}
	s.e.mu.Lock()
	delete(s.e.sessions, s)
	s.e.mu.Unlock()
	s.e.running.Done()
}

func (s *session) upstreams() []*upstream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*upstream(nil), s.ups...)
}

// abort resets all connections. It may be called from any goroutine.
func (s *session) abort() {
	s.once.Do(func() {
		close(s.gone)
		s.mu.Lock()
		if s.dialing != nil {
			s.dialing()
		}
		s.mu.Unlock()
		s.client.end(s.e.watch, true)
		for _, up := range s.upstreams() {
			up.end(s.e.watch, true)
		}
	})
}

// drop closes a connection to a server. Only the session's goroutine does, and of HTTP/2 the one that reads it.
func (s *session) drop(up *upstream, broken bool) {
	s.mu.Lock()
	for i, u := range s.ups {
		if u == up {
			s.ups = append(s.ups[:i:i], s.ups[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	up.end(s.e.watch, broken)
	up.buf.drop()
	s.e.flows.remove(&up.flow)
}

// enter changes the phase, and tells whether the client had finished before.
func (s *session) enter(p phase) {
	s.mu.Lock()
	s.phase = p
	s.finishLocked()
	s.mu.Unlock()
}

// clientHung is called once the client sends no more, or is gone.
func (s *session) clientHung(broken bool) {
	if broken {
		s.abort()
		return
	}
	s.mu.Lock()
	s.finished = true
	s.finishLocked()
	s.mu.Unlock()
}

// finishLocked tells the server that the client sends no more, once it has all that the client sent.
func (s *session) finishLocked() {
	if !s.finished || s.phase != waiting || !s.alone || len(s.ups) == 0 {
		return
	}
	if up := s.ups[len(s.ups)-1]; !up.fin && s.client.ended() {
		up.fin = true
		up.closeWrite()
	}
}

// watch has hung called when the side's peer hangs up. A connection that ends after one quick answer is not watched: that
// would be a good part of what it costs.
func (s *session) watch(side *side, hung func(broken bool)) {
	id := s.e.watch.add(side.raw, hung)
	side.watch.Store(id)
	select {
	case <-s.gone: // abort may have come before the number
		s.e.watch.drop(id)
	default:
	}
}

// watchClient and watchServer do so from the first time on. Each request asks for it: the functions are made only where they are needed.
func (s *session) watchClient() {
	if s.client.watch.Load() == 0 {
		s.watch(&s.client, s.clientHung)
	}
}

func (s *session) watchServer(up *upstream) {
	up.keepAlive()
	if up.watch.Load() == 0 {
		s.watch(&up.side, func(bool) { s.serverHung(up) })
	}
}

// watchAfter is how long an answer may take before the client is watched while it waits.
const watchAfter = 20 * time.Millisecond

// serverHung is called once a server sends no more, or is gone.
func (s *session) serverHung(up *upstream) {
	up.hung.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ups) == 0 || s.ups[len(s.ups)-1] != up {
		return
	}
	switch s.phase {
	case idle: // the client would see the end now, without us
		s.client.interrupt()
	case uploading: // nobody is left to send to
		s.client.interrupt()
	}
}

// first reads as much as it takes to recognise the client's protocol. known is false for a client that has to be taken as
// opaque before that.
func (s *session) first() (p flow.Protocol, known bool) {
	if got, err := s.client.poll(); err != nil {
		return s.nothing(err)
	} else if !got {
		if s.speaksFirst() {
			return flow.Opaque, false
		}
		if err := s.fillWithin(s.e.limits.Load().FirstByte); err != nil {
			return s.nothing(err)
		}
	}
	for end := time.Now().Add(partialWait); ; {
		if p, known = recognise(s.client.buf.bytes()); known {
			return p, true
		}
		if err := s.fillWithin(time.Until(end)); err != nil {
			if isTimeout(err) {
				return flow.Opaque, false
			}
			return flow.Opaque, true // it ends in the middle: whatever it was, it is no request
		}
	}
}

// nothing is what a client is that sent nothing, and why that ended.
func (s *session) nothing(err error) (flow.Protocol, bool) {
	switch {
	case isTimeout(err):
		return flow.Opaque, false
	case errors.Is(err, io.EOF): // it only listens
		return flow.Opaque, true
	}
	s.abort()
	return "", true
}

func (s *session) speaksFirst() bool {
	port := s.to.Port()
	for _, ports := range [][]uint16{serverFirst, s.e.settings.Load().ServerFirst} {
		for _, p := range ports {
			if p == port {
				return true
			}
		}
	}
	return s.e.spoke.has(s.to)
}

// fillWithin is fill with a limit of time.
func (s *session) fillWithin(d time.Duration) error {
	_ = s.client.tcp.SetReadDeadline(time.Now().Add(max(d, time.Millisecond)))
	err := s.client.fill()
	s.client.resume()
	return err
}

// decide asks the decision point. A context that may not pass counts as denied.
func (s *session) decide(c *flow.Context) (*flow.Decision, error) {
	d, err := s.ask(c)
	if err != nil || d.Profile.Deny {
		s.e.count.denied.Add(1)
	}
	return d, err
}

// open connects to the server by the tunnel that the decision demands.
func (s *session) open(c *flow.Context, d *flow.Decision, key routeKey, o *Origination) (*upstream, error) {
	ctx, cancel := context.WithTimeout(s.e.ctx, s.e.limits.Load().Dial)
	defer cancel()
	s.setDialing(cancel)
	defer s.setDialing(nil)
	return s.connect(ctx, c, d, key, o, "http/1.1")
}

// connect does so within ctx, which ends with the session. Where TLS is originated the server has to speak the protocol in it.
func (s *session) connect(ctx context.Context, c *flow.Context, d *flow.Decision, key routeKey, o *Origination, protocol string) (*upstream, error) {
	select {
	case <-s.gone:
		return nil, errGone
	default:
	}
	began := time.Now()
	conn, err := s.e.dialer.Dial(ctx, *c, *d)
	if err != nil {
		s.e.count.failed.Add(1)
		return nil, err
	}
	up := &upstream{route: key}
	if err := up.init(conn.Conn); err != nil {
		reset(conn.Conn)
		return nil, err
	}
	if conn.Receipts { // before anything is sent
		up.close = s.e.accounts.open(&up.side, conn.Tunnel, c.Container, began)
	}
	if o != nil {
		if err := up.originate(ctx, o, key.tls, protocol); err != nil {
			s.e.count.failed.Add(1)
			up.end(s.e.watch, true)
			return nil, err
		}
	}
	up.flow.local = localOf(conn.Conn)
	up.flow.decision = d
	up.flow.started, up.flow.tunnel, up.flow.verified, up.flow.cut, up.flow.ask = time.Now(), conn.Tunnel, conn.Verified, s.abort, s.ask
	s.mu.Lock()
	s.ups = append(s.ups, up)
	s.mu.Unlock()
	s.e.flows.add(&up.flow)
	select {
	case <-s.gone: // abort may have missed it
		s.drop(up, true)
		return nil, errGone
	default:
	}
	return up, nil
}

func (s *session) setDialing(cancel context.CancelFunc) {
	s.mu.Lock()
	s.dialing = cancel
	s.mu.Unlock()
}

// limitsOf are the limits of what is decided now. Those by connection last as long as the rates do not change.
func (s *session) limitsOf(d *flow.Decision, user string) *limits {
	if user != s.user || !slices.Equal(s.rates, d.Profile.Rates) {
		s.rates, s.user, s.limits = d.Profile.Rates, user, s.e.rates.of(d.Profile.Rates, user)
	}
	return s.limits
}

// errGone says that the client is gone, or the engine ends.
var errGone = errors.New("the connection was cut")

// isTemporary tells errors of accept after which the next connection can succeed.
func isTemporary(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EPROTO, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serveTLS decides once, by the ClientHello.
func (s *session) serveTLS() {
	var h hello.Hello
	var err error
	for end := time.Now().Add(s.e.limits.Load().Head); ; {
		if h, err = hello.Parse(s.client.buf.bytes()); err == nil {
			break
		}
		if errors.Is(err, hello.ErrMalformed) {
			s.e.count.unread.Add(1)
			s.abort()
			return
		}
		if s.fillWithin(time.Until(end)) != nil {
			s.abort()
			return
		}
	}
	c := s.settings().ofHello(h, s.to)
	s.serveWhole(&c)
}

// serveOpaque decides once, by the address. The client may turn out to speak HTTP or TLS where known is false.
func (s *session) serveOpaque(known bool) {
	c := s.settings().ofAddress(s.to)
	if known {
		s.serveWhole(&c)
		return
	}
	s.serveUnsure(&c)
}

// serveWhole relays the connection as one flow.
func (s *session) serveWhole(c *flow.Context) {
	if up := s.openWhole(c); up != nil {
		s.relay(up)
	}
}

// openWhole decides about the connection as one flow and connects it; nil: it was cut.
func (s *session) openWhole(c *flow.Context) *upstream {
	epoch := s.e.epoch.Load()
	d, err := s.decide(c)
	if err != nil || d.Profile.Deny {
		s.abort()
		return nil
	}
	return s.openDecided(c, d, epoch)
}

// openDecided connects a connection that may pass as one flow, as was decided in an epoch or a later one; nil: it was cut.
func (s *session) openDecided(c *flow.Context, d *flow.Decision, epoch uint64) *upstream {
	up, err := s.open(c, d, route(c, d), nil)
	if err != nil {
		s.abort()
		return nil
	}
	up.flow.limits.Store(s.limitsOf(d, c.User))
	up.flow.serve(c, d, true)
	if s.e.epoch.Load() != epoch { // whoever decided flows again did not see this one
		s.e.redecide(&up.flow)
	}
	return up
}
