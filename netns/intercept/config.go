package intercept

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/bearer"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/netns/intercept/names"
)

// Decider decides. It answers within its own limit of time; an error means that nothing may pass.
type Decider interface {
	Decide(ctx context.Context, c flow.Context) (flow.Decision, error)
}

// Rememberer is a Decider that tells what it knows already without waiting; nil: it has to be asked. What it returns is not
// written to.
type Rememberer interface {
	Known(c *flow.Context) *flow.Decision
}

// Preparer is a Decider that is told what it will be asked about next, so that it may find out with fewer questions. What it does not
// find out it is asked all the same.
type Preparer interface {
	Prepare(ctx context.Context, all []flow.Context)
}

// Dialer opens connections to c.Destination by a tunnel that fits the decision's profile. Dedicated tunnels are c.User's.
type Dialer interface {
	Dial(ctx context.Context, c flow.Context, d flow.Decision) (Upstream, error)
}

// Upstream is a connection that a Dialer opened.
type Upstream struct {
	Conn     *net.TCPConn
	Tunnel   string // name of the tunnel it takes
	Verified bool   // the socket's device and mark were read back, and are the tunnel's
	Receipts bool   // the tunnel's gateway counts, too: an account is kept of the connection
}

// Limits and Mapping travel in a document as well.
type (
	Limits  = document.Limits
	Mapping = document.Mapping
	Names   = document.Names
)

func orDefault(l Limits) Limits {
	for _, d := range []struct{ is, byDefault *time.Duration }{
		{&l.FirstByte, ptr(100 * time.Millisecond)}, {&l.Head, ptr(30 * time.Second)}, {&l.Dial, ptr(10 * time.Second)},
	} {
		if *d.is <= 0 {
			*d.is = *d.byDefault
		}
	}
	if l.Connections <= 0 {
		l.Connections = 4096
	}
	return l
}

func ptr[T any](v T) *T { return &v }

// Settings say how requests are understood. They can be replaced while connections live.
type Settings struct {
	// Base is what is known of every flow beforehand: container, namespace, workload, image, risk.
	Base flow.Context
	// Data is the workload's label of sensitivity; empty: none.
	Data string
	// Tokens verifies bearer tokens; nil: none are.
	Tokens *bearer.Verifier
	// TokenHeaders name the headers that carry tokens, UserHeaders and DataHeaders those that name a user or a class of data;
	// all in lower case, the first one present counts.
	TokenHeaders, UserHeaders, DataHeaders []string
	// Mappings are looked through in order; for each of operation and data the first one that matches and sets it counts.
	Mappings []Mapping
	// Originate are the hosts to which plain HTTP is carried on as TLS.
	Originate []Origination
	// ServerFirst are ports on which servers speak first, beside the well-known ones.
	ServerFirst []uint16
	// Names say how names are looked up, and whose answers are believed.
	Names   Names
	answers *names.Map // the engine's

	// Contacts are whom the container may contact at all.
	Contacts Contacts
	// Containers are those that share the namespace: what Base, Data and Contacts say holds for none of them then.
	Containers []Container
	shares     map[string]*Settings // by container; nil: there is only one

	// Limits replace the engine's; nil: they stay.
	Limits *Limits
}

// Origination has requests that came in plain HTTP leave in TLS, the certificate checked for the host's name.
type Origination struct {
	Host string // as in Mapping
	Port uint16 // of the server; 0: 443
	TLS  *tls.Config
}
