package gate

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Kind says what an Event is about.
type Kind uint8

// The kinds.
const (
	RefusedOff    Kind = iota + 1 // the network is off
	RefusedSet                    // the destination is blocked
	RefusedClosed                 // it is not among those that are allowed
	RefusedFeed                   // a threat feed lists it
	SeenFeed                      // a threat feed lists it, and feeds are only watched
	Accepted                      // the first connection that the container accepted
)

// Refused reports whether the packet was not let through.
func (k Kind) Refused() bool { return k >= RefusedOff && k <= RefusedFeed }

var kinds = [...]string{RefusedOff: "network off", RefusedSet: "blocked", RefusedClosed: "not allowed", RefusedFeed: "listed", SeenFeed: "listed", Accepted: "accepted"}

// String is the reason in a word or two.
func (k Kind) String() string {
	if int(k) < len(kinds) && kinds[k] != "" {
		return kinds[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Event is what a gate saw: a destination that was refused or is listed, or the first accepted connection. The same contact is
// reported once in ten seconds, and at most 32 events a second of a container.
type Event struct {
	Kind    Kind
	Remote  netip.AddrPort // port 0 where the protocol has none
	Proto   uint8          // number of the protocol above IP
	Port    uint16         // the container's own; Accepted only
	Packets uint64         // of the same contact since it was last reported
}

// Destination writes the other side as observations do: "tcp/192.0.2.1:443".
func (e Event) Destination() string {
	switch e.Proto {
	case protoTCP:
		return "tcp/" + e.Remote.String()
	case protoUDP:
		return "udp/" + e.Remote.String()
	case 1, protoICMPv6:
		return "icmp/" + e.Remote.Addr().String()
	}
	return fmt.Sprintf("ip%d/%s", e.Proto, e.Remote.Addr())
}

// parseEvent reads what a program wrote.
func parseEvent(b []byte) (cgroup uint64, e Event, ok bool) {
	if len(b) < eventSize {
		return 0, Event{}, false
	}
	addr := netip.AddrFrom16([16]byte(b[eventAddr : eventAddr+16])).Unmap()
	e = Event{
		Kind: Kind(b[eventKind]), Proto: b[eventProto],
		Remote:  netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[eventPort:])),
		Port:    uint16(binary.NativeEndian.Uint32(b[eventLocal:])),
		Packets: binary.NativeEndian.Uint64(b[eventPackets:]),
	}
	return binary.NativeEndian.Uint64(b[eventID:]), e, e.Kind >= RefusedOff && e.Kind <= Accepted
}
