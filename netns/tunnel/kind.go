package tunnel

import (
	"context"
	"fmt"
	"net/netip"

	"forefend.dev/forefend/netns/link"
)

// maker makes the devices of one kind of tunnels.
type maker interface {
	// check reads what a tunnel's files hold, and forgets it again. The error names the files.
	check(t *Tunnel) error
	// plan readies the device of a slot. It may take until the gateway has answered, and then the error says what that said.
	plan(ctx context.Context, s site) (link.Plan, error)
}

// site is a slot of a tunnel and which of its endpoints it begins with.
type site struct {
	tunnel *Tunnel
	slot   int
	to     netip.AddrPort
	dscp   uint8 // of the packets to the gateway
	trial  bool  // the device is to speak first, whether anybody has something to send or not
}

// Check reads every key of a tunnel and forgets them again. The errors name the files.
func (t *Tunnel) Check() error {
	var kind maker
	switch {
	case t.Gateway.Address != "":
		kind = (*provisioned)(nil)
	case t.Kind == WireGuard:
		kind = wireGuard{}
	case t.Kind == OpenVPN:
		kind = (*openVPN)(nil)
	default:
		return nil
	}
	if err := kind.check(t); err != nil {
		return fmt.Errorf("tunnel %s: %w", t.Name, err)
	}
	return nil
}

// maker makes the devices of a tunnel.
func (s *Service) maker(t *Tunnel) maker {
	if t.Gateway.Address != "" {
		return s.provisioned
	}
	return s.kinds[t.Kind]
}
