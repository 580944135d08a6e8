package central

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/time/rate"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/orchestrator/door"
	"forefend.dev/forefend/runtime/reception"
)

// What nodes may hold of a central daemon (docs/central.md). A node has one connection; it makes a new one before the old one is gone
// where its address changed.
const (
	maxConns     = 4096
	maxConnsOf   = 4   // of one certificate's name
	maxGreetings = 256 // TLS handshakes under way
	maxCalls     = 16  // of one connection without an answer: Client has maxFlying and one for the epoch
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
	decider   Decider
	reception *reception.Reception
	door      *door.Door
}

// NewServer makes one for nodes whose certificate has one of the names, which are patterns; perSecond bounds the questions of each.
func NewServer(d Decider, who *credentials.Files, names []string, perSecond int) *Server {
	return &Server{
		decider: d,
		reception: reception.New(reception.Terms{
			Guests: maxConns, OfOne: maxConnsOf, Greetings: maxGreetings, Within: greetTime,
			// A burst is a second's worth, and at least a full message: what was asked while the rules changed.
			Rate: rate.Limit(perSecond), Burst: max(perSecond, api.MaxQuestions),
			TLS: who.Server, Name: allowed(names), Tell: tellRefusal,
		}),
		door: door.New(greeted{}, door.Limits{
			Conns: maxConns, CallsOfOne: maxCalls, Message: maxMessage, Waiting: maxUnturned, MessageTime: messageTime, AnswerTime: messageTime,
			Calls: door.Class{Turns: maxDeciding}, Large: door.Class{Turns: 2}, LargeFrom: maxMessage / 4,
			Classes: map[string]door.Class{"Epoch": {Name: "epochs", Turns: maxConns}, "Decide": {Name: "deciding", Turns: maxDeciding}},
		}),
	}
}

// allowed returns the first name of a certificate that one of the patterns allows.
func allowed(patterns []string) func(*x509.Certificate) (string, error) {
	return func(c *x509.Certificate) (string, error) {
		for _, name := range c.DNSNames {
			for _, pattern := range patterns {
				if ok, _ := path.Match(pattern, name); ok { // patterns were checked with the configuration
					return name, nil
				}
			}
		}
		return "", fmt.Errorf("its certificate is for %.200q, of which none may ask: %w", c.DNSNames, errdefs.ErrPermissionDenied)
	}
}

func tellRefusal(r reception.Refusal) {
	r.Log("node").Warn("forefend daemon: a node was not let in")
}

// greeted lets everybody in: who comes so far has proved who it is.
type greeted struct{}

// Handshake implements ttrpc.Handshaker.
func (greeted) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	return conn, nil, nil
}

// Counts is what had to be refused since the server began.
type Counts struct {
	reception.Counts
	Door door.Counts
}

// Counts tells of refusals.
func (s *Server) Counts() Counts { return Counts{s.reception.Counts(), s.door.Counts()} }

// Serve takes connections until ctx ends. The listener is closed then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	in := s.reception.Listen(l)
	defer in.Close()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	for {
		g, err := in.Next()
		if ctx.Err() != nil {
			if g != nil {
				_ = g.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		all.Go(func() {
			defer g.Close()
			s.serve(ctx, g, &node{s, g.Name, g.May}, g.Until)
		})
	}
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
	may  func(questions int) bool // now, by its rate
}

// Decide implements api.Central.
func (n *node) Decide(ctx context.Context, r api.CentralRequest) (api.CentralResponse, error) {
	switch {
	case r.Version != flow.Version:
		return api.CentralResponse{}, fmt.Errorf("questions of version %d, this daemon understands %d: %w", r.Version, flow.Version, errdefs.ErrNotImplemented)
	case len(r.Questions) == 0 || len(r.Questions) > api.MaxQuestions:
		return api.CentralResponse{}, fmt.Errorf("%d questions, a message has 1 to %d: %w", len(r.Questions), api.MaxQuestions, errdefs.ErrInvalidArgument)
	case !n.may(len(r.Questions)):
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
