package harness

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"

	"forefend.dev/forefend/test/network"
	"golang.org/x/sys/unix"
)

// Packet is a TCP segment over IPv4, as a Capture saw it.
type Packet struct {
	Source, Destination netip.AddrPort
	Payload             []byte
}

// mostPackets bounds what a Capture remembers; those beyond it are only counted.
const mostPackets = 1000

// Capture takes copies of the IPv4 packets that come in by a device. Its methods may be called concurrently.
type Capture struct {
	mu      sync.Mutex
	packets []Packet // guarded by mu
	seen    int      // guarded by mu: all IPv4 packets
}

// Capture begins one on a device of the world; it ends with the world.
func (w *World) Capture(device string) (*Capture, error) {
	c := &Capture{}
	stop, err := network.Watch(w.space, device, c.see)
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, stop)
	return c, nil
}

func (c *Capture) see(packet []byte, outgoing bool) {
	if outgoing || len(packet) == 0 || packet[0]>>4 != 4 {
		return
	}
	p, isTCP := parseTCP(packet)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen++
	if isTCP && len(c.packets) < mostPackets {
		c.packets = append(c.packets, p)
	}
}

// Packets returns the TCP segments so far, and the number of IPv4 packets of any kind.
func (c *Capture) Packets() ([]Packet, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets), c.seen
}

// parseTCP takes an IPv4 packet apart; it reports false for other protocols, later fragments and what is cut short. The payload is a copy.
func parseTCP(b []byte) (Packet, bool) {
	const ipHeader, tcpHeader = 20, 20
	if len(b) < ipHeader || b[0]>>4 != 4 || b[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return Packet{}, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipHeader || total > len(b) || total < header+tcpHeader {
		return Packet{}, false
	}
	segment := b[header:total]
	offset := int(segment[12]>>4) * 4
	if offset < tcpHeader || offset > len(segment) {
		return Packet{}, false
	}
	return Packet{
		Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(segment)),
		Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), binary.BigEndian.Uint16(segment[2:])),
		Payload:     slices.Clone(segment[offset:]),
	}, true
}
