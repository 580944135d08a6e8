package gate

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// What the programs and this process tell each other. Offsets are bytes; the structures have no padding of their own.

// state is the value of a cgroup's storage: what shall hold, and what the programs note beside it.
type state struct {
	Flags    uint32
	Accepted uint32 // the first accepted connection has been reported
	ID       uint64 // of the cgroup, in events
	Set      uint64 // version of its set
	Window   uint64 // when the second began in which Events were reported
	Events   uint32
	Lost     uint32 // events that were too many
}

const (
	stateFlags    = 0
	stateAccepted = 4
	stateID       = 8
	stateSet      = 16
	stateWindow   = 24
	stateEvents   = 32
	stateLost     = 36
	stateSize     = 40
)

// Bits of state.Flags.
const (
	flagOff        = 1 << iota // nothing passes but loopback
	flagClosed                 // only what the set allows
	flagSet                    // there is a set
	flagFeedsWatch             // listed destinations are reported
	flagFeedsBlock             // listed destinations are refused
)

// replies are the flags under which answers have to be told from what the container began.
const replies = flagClosed | flagSet | flagFeedsBlock

// restricting are the flags under which packet sockets send nothing. Feeds are not among them: what they list is little.
const restricting = flagOff | flagClosed | flagSet

// event is what the programs report.
type event struct {
	ID      uint64
	Addr    [16]byte // IPv4 as ::ffff:a.b.c.d
	Port    [2]byte  // network order
	Proto   uint8
	Kind    uint8
	Local   uint32 // port, of accepted connections
	Packets uint64 // since it was last reported
}

const (
	eventID      = 0
	eventAddr    = 8
	eventPort    = 24
	eventProto   = 26
	eventKind    = 27
	eventLocal   = 28
	eventPackets = 32
	eventSize    = 40
)

// A seen slot is the event that was last reported there and when: what is repeated is counted, not reported again.
const (
	seenTime  = eventSize
	seenSize  = eventSize + 8
	seenSlots = 1024
)

// setKey is a prefix of a container's set. The sets of all containers are in one trie, since a map that is given out in a map of maps, or taken back,
// costs a grace period of RCU. A new version is made whole before the state names it.
type setKey struct {
	Bits    uint32 // those before the address included
	Family  uint32
	Cgroup  uint64
	Version uint64
	Addr    [16]byte // IPv4 in the first four
}

const (
	setFamily   = 4
	setCgroup   = 8
	setVersion  = 16
	setAddr     = 24
	setKeySize  = 40
	setBitsMost = 32 + 64 + 64 + 128
)

// of is k as the set of a cgroup has it.
func (k lpmKey) of(cgroup, version uint64) setKey {
	return setKey{Bits: k.Bits + 64 + 64, Family: k.Family, Cgroup: cgroup, Version: version, Addr: k.Addr}
}

// Verdicts of a set.
const (
	verdictBlock = 1
	verdictAllow = 2
	verdictNone  = 3 // at the bottom of each set: one of which nothing is found is not there
)

// Bounds, and how long what is noted holds.
const (
	eventsPerSecond = 32        // of one container; more are counted
	repeatAfter     = 10e9      // ns after which the same contact is reported again
	answerWithin    = 180e9     // ns in which a datagram may be answered
	maxPeers        = 4096      // correspondents of a container by datagrams while it has egress rules
	maxSet          = 16_384    // prefixes allowed or blocked for one container
	maxSets         = 4_000_000 // of all containers
	maxGates        = 16_384    // containers of a node that have such rules
	ringSize        = 4096      // bytes, or a page: the events of one process
)

// MaxFeed is how many prefixes the node's set holds at most.
const MaxFeed = 4_000_000

// lpmKey is a prefix as the tries have it. The family leads, so that ::/0 does not hold IPv4.
type lpmKey struct {
	Bits   uint32 // the family's included
	Family uint32
	Addr   [16]byte // IPv4 in the first four
}

const (
	keyBits     = 0
	keyFamily   = 4
	keyAddr     = 8
	keySize     = 24
	keyBitsMost = 32 + 128
)

func lpmKeyOf(p netip.Prefix) lpmKey {
	p = p.Masked()
	k := lpmKey{Bits: 32 + uint32(p.Bits()), Family: 6}
	if p.Addr().Is4() {
		k.Family = 4
		a := p.Addr().As4()
		copy(k.Addr[:], a[:])
		return k
	}
	k.Addr = p.Addr().As16()
	return k
}

// network16 is how n in network order looks when loaded as a native number.
func network16(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)}))
}

// network32 likewise.
func network32(n uint32) int64 {
	if network16(1) == 1 {
		return int64(n)
	}
	return int64(bits.ReverseBytes32(n))
}
