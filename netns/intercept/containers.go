package intercept

import (
	"context"
	"errors"
	"net/netip"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// Attributor finds the container that opened a connection, or sent a packet ("udp"), where several share a network namespace. An error
// says why that is not known.
type Attributor interface {
	Container(ctx context.Context, network string, local, remote netip.AddrPort) (id string, err error)
}

// Attribute has the engine ask a for the container of each connection where Settings name several. It comes before Serve.
func (e *Engine) Attribute(a Attributor) { e.attributor = a }

// share makes the settings of each container. Nobody's, by which is understood what cannot be attributed, name no container: who
// decides takes the strictest of them all.
func (s *Settings) share() {
	if len(s.Containers) == 0 {
		return
	}
	shares := make(map[string]*Settings, len(s.Containers)+1)
	add := func(base flow.Context, contacts Contacts) {
		own := *s
		own.Base, own.Data, own.Contacts, own.Containers = base, base.Data, contacts, nil
		shares[base.Container] = &own
	}
	for i := range s.Containers {
		add(s.Containers[i].Base, s.Containers[i].Contacts)
	}
	add(flow.Context{Version: flow.Version, Namespace: s.Base.Namespace}, Contacts{})
	s.shares = shares
}

// whose are the settings for what a container sends. Of one that is gone they are nobody's.
func (s *Settings) whose(container string) *Settings {
	if s.shares == nil {
		return s
	}
	if own := s.shares[container]; own != nil {
		return own
	}
	return s.shares[""]
}

// refuses says why nothing may be sent there, whatever it is for; "": it may. What cannot be attributed is held to what holds for each container.
func (s *Settings) refuses(c *flow.Context) string {
	if own := s.whose(c.Container); s.shares == nil || own != s.shares[""] {
		return own.forbids(c)
	}
	for i := range s.Containers {
		if why := s.whose(s.Containers[i].Base.Container).forbids(c); why != "" {
			return why + ", of " + s.Containers[i].Base.Container
		}
	}
	return ""
}

// container is who opened a connection, where several containers share the namespace; unknown says why that is not known.
func (e *Engine) container(network string, local, remote netip.AddrPort) (id, unknown string) {
	if e.settings.Load().shares == nil {
		return "", ""
	}
	err := errors.New("nobody looks for containers here")
	if e.attributor != nil {
		ctx, cancel := context.WithTimeout(e.ctx, findWithin)
		defer cancel()
		id, err = e.attributor.Container(ctx, network, local, remote)
	}
	if err != nil {
		return "", "which container opened the connection is not known: " + err.Error()
	}
	return id, ""
}

// attribute finds the connection's container, while its socket is certain to be there.
func (s *session) attribute() {
	s.container, s.unattributed = s.e.container("tcp", s.opener(), s.to)
}

// opener is the client's end.
func (s *session) opener() netip.AddrPort {
	return s.client.tcp.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
}

// settings are those for what the connection's container sends.
func (s *session) settings() *Settings { return s.e.settings.Load().whose(s.container) }

// Container travels in a document as well.
type Container = document.Container
