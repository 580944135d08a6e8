package intercept

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// Contacts travel in a document as well.
type Contacts = document.Contacts

// restricted is a Decider that asks another one only of what the container may contact at all.
type restricted struct {
	Decider
	e *Engine
}

// Decide implements Decider.
func (r restricted) Decide(ctx context.Context, c flow.Context) (flow.Decision, error) {
	if why := r.e.settings.Load().refuses(&c); why != "" {
		return refusal(why), nil
	}
	return r.Decider.Decide(ctx, c)
}

// Prepare implements Preparer, of what the container may contact.
func (r restricted) Prepare(ctx context.Context, all []flow.Context) {
	p, ok := r.Decider.(Preparer)
	if !ok || len(all) == 0 {
		return
	}
	settings := r.e.settings.Load()
	p.Prepare(ctx, slices.DeleteFunc(all, func(c flow.Context) bool { return settings.refuses(&c) != "" }))
}

// remembering is a restricted one that remembers.
type remembering struct {
	restricted
	known Rememberer
}

// Known implements Rememberer.
func (r remembering) Known(c *flow.Context) *flow.Decision {
	if why := r.e.settings.Load().refuses(c); why != "" {
		d := refusal(why)
		return &d
	}
	return r.known.Known(c)
}

func restrict(e *Engine, d Decider) Decider {
	r := restricted{d, e}
	if known, ok := d.(Rememberer); ok {
		return remembering{r, known}
	}
	return r
}

func refusal(why string) flow.Decision {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Deny: true}, Reason: why}
}

// forbids says why one container may send nothing there; "": it may. It is the container's own policy, which the gate in
// its cgroup cannot see to: what is led here leaves from another one.
func (s *Settings) forbids(c *flow.Context) string {
	r := &s.Contacts
	addr := c.Destination.Addr()
	switch {
	case r.Off:
		return "network = off"
	case within(r.Block, addr):
		return fmt.Sprintf("egress.block has %s", addr)
	case hasName(r.BlockNames, c):
		return fmt.Sprintf("egress.block has %s", c.HostText())
	case !r.Closed, within(r.Allow, addr):
		return ""
	case hasName(r.AllowNames, c) && (c.HostProof != flow.Claimed || !s.checked()):
		return ""
	case c.HostText() == "":
		return fmt.Sprintf("egress.default = closed, and egress.allow has no %s", c.Destination)
	}
	return fmt.Sprintf("egress.default = closed, and egress.allow has neither %s nor %s port %d", addr, c.HostText(), c.Destination.Port())
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hasName tells whether a list has the host of a contact, or one of the names that it may be. A name may be looked up if something may be sent there, by any port.
func hasName(list []document.Name, c *flow.Context) bool {
	for _, n := range list {
		if n.Host != "" && matchAny(n.Host, c) && (n.Port == 0 || c.Protocol == flow.DNS || n.Port == c.Destination.Port()) {
			return true
		}
	}
	return false
}
