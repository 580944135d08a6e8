package intercept

import (
	"net/netip"
	"slices"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// portTLS is that of name servers which are asked over TLS (RFC 7858).
const portTLS = 853

// pathHTTPS is by custom that of name servers which are asked over HTTPS (RFC 8484).
const pathHTTPS = "/dns-query"

// prove says how far the host of a context can be believed, and finds one for a connection that names none, or several that it may be. It knows
// what looks names up by other means, too.
func (s *Settings) prove(c *flow.Context) {
	if c.Host != "" {
		c.HostProof = s.proof(c)
	} else if c.Protocol != flow.HTTP && s.answers != nil {
		hosts, listed := s.answers.Hosts(c.Destination.Addr(), flow.MaxNames, time.Now())
		switch len(hosts) {
		case 0:
		case 1:
			c.Host = hosts[0]
		default:
			c.Names = hosts
		}
		if listed {
			c.HostProof = flow.Answered
		} else if len(hosts) > 0 {
			c.HostProof = flow.Claimed
		}
	}
	if c.Service == "" && s.looksUp(c) {
		c.Service = flow.ServiceDNS
	}
}

// proof is what speaks for a host that the connection names; "" where the site says of no name server that it is to be believed.
func (s *Settings) proof(c *flow.Context) flow.Proof {
	if !s.checked() {
		return ""
	}
	if c.Protocol == flow.HTTP && s.originate(c.Host) != nil {
		return flow.Certified
	}
	if a, err := netip.ParseAddr(c.Host); err == nil {
		if a.Unmap() == c.Destination.Addr() { // it names what it connects to
			return flow.Answered
		}
		return flow.Claimed
	}
	if s.answers != nil {
		if _, listed := s.answers.Said(c.Destination.Addr(), c.Host, time.Now()); listed {
			return flow.Answered
		}
	}
	return flow.Claimed
}

// looksUp tells whether a request, or a connection, is one to a name server that is asked over TLS or HTTPS.
func (s *Settings) looksUp(c *flow.Context) bool {
	if c.Protocol == flow.TLS && c.Destination.Port() == portTLS || c.Path == pathHTTPS {
		return true
	}
	return slices.ContainsFunc(s.Names.Services, func(pattern string) bool { return matchAny(pattern, c) })
}

// matchAny tells whether a pattern matches the host of a context, or one of the names that it may be.
func matchAny(pattern string, c *flow.Context) bool {
	return matchHost(pattern, c.Host) || slices.ContainsFunc(c.Names, func(name string) bool { return matchHost(pattern, name) })
}

// mean applies mappings. By a host that is only claimed, or one of several names, they can raise what is demanded: a class of data is a label then, and
// what it does stays what it is.
func (s *Settings) mean(c *flow.Context) {
	claimed := c.HostProof == flow.Claimed || c.Names != nil
	if operation := s.mapped(c, func(m *Mapping) string { return m.Operation }); operation != "" && !claimed {
		c.Operation = operation
	}
	switch data := s.mapped(c, func(m *Mapping) string { return m.Data }); {
	case data == "":
	case claimed:
		c.Data, c.Label = "", data
	default:
		c.Data = data
	}
}
