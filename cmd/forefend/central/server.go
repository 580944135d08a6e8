package central

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/orchestrator/door"
)

// What nodes may hold of a central daemon (docs/limits.md). A node has one connection; it makes a new one before the old one is gone
// where its address changed.
const (
	maxConns     = 4096
	maxConnsOf   = 4  // of one certificate's name
	maxGreetings = 64 // TLS handshakes under way
	maxCalls     = 16 // of one connection without an answer: Client has maxFlying and one for the epoch
	maxMessage   = 1 << 20
	maxUnturned  = 16 << 20 // bytes of all messages that are not whole
	maxDeciding  = 16       // messages that are decided at once
	greetTime    = 5 * time.Second
	messageTime  = 5 * time.Second
	maxEpochWait = time.Minute
)

// Decider decides for a node, by rules that have an epoch.
type Decider interface {
	// Decide answers about a request of a node, all of which that node says.
	Decide(node string, q *api.Question) flow.Decision
	// Await returns the epoch once it is not after any more, or ctx ends, and whether its rules ask for the risk of containers.
	Await(ctx context.Context, after uint64) (epoch uint64, risk bool)
}

// Server answers nodes.
type Server struct {
	decider Decider
	who     *credentials.Files
	names   []string
	door    *door.Door
	peers   *peers
}

// NewServer makes one for nodes whose certificate has one of the names, which are patterns; perSecond bounds the questions of each.
func NewServer(d Decider, who *credentials.Files, names []string, perSecond int) *Server {
	return &Server{
		decider: d, who: who, names: names, peers: newPeers(perSecond),
		door: door.New(greeted{}, door.Limits{
			Conns: maxConns, CallsOfOne: maxCalls, Message: maxMessage, Waiting: maxUnturned, MessageTime: messageTime, AnswerTime: messageTime,
			Calls: door.Class{Turns: maxDeciding}, Large: door.Class{Turns: 2}, LargeFrom: maxMessage / 4,
			Classes: map[string]door.Class{"Epoch": {Name: "epochs", Turns: maxConns}, "Decide": {Name: "deciding", Turns: maxDeciding}},
		}),
	}
}

// greeted lets everybody in: who comes so far has proved who it is.
type greeted struct{}

// Handshake implements ttrpc.Handshaker.
func (greeted) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	return conn, nil, nil
}

// Counts is what had to be refused since the server began.
type Counts struct {
	Strangers uint64 // connections without a certificate that is believed, or with a name that may not ask
	Crowding  uint64 // connections beyond those that one name may have
	Hasty     uint64 // messages beyond the rate of a name
	Door      door.Counts
}

// Counts tells of refusals.
func (s *Server) Counts() Counts {
	c := s.peers.counts()
	c.Door = s.door.Counts()
	return c
}

// Serve takes connections until ctx ends. The listener is closed then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	var new greetings
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			select { // descriptors or memory have run out; some come back when connections end
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		new.add(raw)
		all.Go(func() {
			conn, name, until, err := s.greet(ctx, raw)
			new.remove(raw)
			if err != nil {
				s.peers.stranger()
				_ = raw.Close()
				log.G(ctx).WithError(err).WithField("from", raw.RemoteAddr().String()).Warn("forefend daemon: a node was not let in")
				return
			}
			defer conn.Close()
			peer := s.peers.enter(name)
			if peer == nil {
				log.G(ctx).WithField("node", name).Warn("forefend daemon: the node has connections enough")
				return
			}
			defer s.peers.leave(name)
			s.serve(ctx, conn, &node{s, name, peer}, until)
		})
	}
}

// greet has a peer prove its name. until is when its certificate ends.
func (s *Server) greet(ctx context.Context, raw net.Conn) (conn *tls.Conn, name string, until time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	cfg, err := s.who.Server()
	if err != nil {
		return nil, "", until, err
	}
	conn = tls.Server(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, "", until, fmt.Errorf("handshake: %w", err)
	}
	leaf := conn.ConnectionState().PeerCertificates[0] // one was required
	name, ok := allowed(leaf.DNSNames, s.names)
	if !ok {
		return nil, "", until, fmt.Errorf("its certificate is for %.200q, of which none may ask: %w", leaf.DNSNames, errdefs.ErrPermissionDenied)
	}
	return conn, name, leaf.NotAfter, nil
}

// serve answers one node until it goes, its certificate ends, or ctx does.
func (s *Server) serve(ctx context.Context, conn net.Conn, n *node, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(s.door))
	if err != nil {
		return // its options are constant
	}
	one := newOnly(conn)
	api.RegisterCentral(server, n)
	stop := context.AfterFunc(ctx, one.end)
	defer stop()
	_ = server.Serve(ctx, one) // it ends with the connection
	_ = server.Close()
}

// node answers one connection. It implements api.Central.
type node struct {
	s    *Server
	name string
	peer *peer
}

// Decide implements api.Central.
func (n *node) Decide(ctx context.Context, r api.CentralRequest) (api.CentralResponse, error) {
	switch {
	case r.Version != flow.Version:
		return api.CentralResponse{}, fmt.Errorf("questions of version %d, this daemon understands %d: %w", r.Version, flow.Version, errdefs.ErrNotImplemented)
	case len(r.Questions) == 0 || len(r.Questions) > api.MaxQuestions:
		return api.CentralResponse{}, fmt.Errorf("%d questions, a message has 1 to %d: %w", len(r.Questions), api.MaxQuestions, errdefs.ErrInvalidArgument)
	case !n.s.peers.may(n.peer, len(r.Questions), time.Now()):
		return api.CentralResponse{}, fmt.Errorf("%s asks more than its rate allows: %w", n.name, errdefs.ErrResourceExhausted)
	}
	answers := make([]flow.Decision, len(r.Questions))
	for i := range r.Questions {
		if err := check(&r.Questions[i]); err != nil {
			return api.CentralResponse{}, err
		}
		if err := ctx.Err(); err != nil {
			return api.CentralResponse{}, err // nobody waits any more
		}
		answers[i] = n.s.decider.Decide(n.name, &r.Questions[i])
	}
	return api.CentralResponse{Answers: answers}, nil
}

// Epoch implements api.Central.
func (n *node) Epoch(ctx context.Context, r api.CentralEpochRequest) (api.CentralEpochResponse, error) {
	if len(r.Versions) > 64 || !slices.Contains(r.Versions, flow.Version) {
		return api.CentralEpochResponse{}, fmt.Errorf("the node understands versions %.10v, this daemon %v: %w", r.Versions, versions, errdefs.ErrNotImplemented)
	}
	ctx, cancel := context.WithTimeout(ctx, min(max(r.Wait, 0), maxEpochWait))
	defer cancel()
	epoch, risk := n.s.decider.Await(ctx, r.After)
	return api.CentralEpochResponse{Version: flow.Version, Epoch: epoch, Risk: risk}, nil
}
