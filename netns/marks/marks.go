// Package marks has the numbers and names by which egress is known to the kernel inside a container's network namespace, each with
// why it collides with nothing there. Nobody else has rules in there: network plugins mark packets in the node's namespace,
// and a mark does not survive the way between two.
package marks

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

// A packet's mark says by which way it is to leave. It is compared as a whole: a packet with any other one but 0 goes nowhere.
const (
	base    = 0xf0fe_0000
	Direct  = base + 1 // by the container's own routes; only the interceptor's packets may
	Inbound = base + 2 // of a connection from outside, both ways
	first   = base + 16
)

// Tunnels is how many one namespace can have: a routing rule each, looked through one after the other.
const Tunnels = 128

// Tunnel is the mark of a namespace's nth tunnel, from 0.
func Tunnel(n int) uint32 { return first + uint32(n) }

// Index is the n of a tunnel's mark; ok is false for every other mark.
func Index(mark uint32) (n int, ok bool) {
	n = int(int64(mark) - first)
	return n, n >= 0 && n < Tunnels
}

// Table is the routing table of a tunnel: beyond the 255 that are known by name or one byte.
func Table(n int) int { return 0x0f0e_0010 + n }

// Trap is the routing table to which everything goes that no rule lets out: to this namespace itself.
const Trap = 0x0f0e_0000

// Device is the name of a tunnel's device. "ff" begins no name that a network plugin gives.
func Device(n int) string { return prefix + strconv.Itoa(n) }

const prefix = "ff"

// IsDevice tells whether that is the name of a tunnel's device.
func IsDevice(name string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(name, prefix))
	return err == nil && n >= 0 && n < Tunnels && name == Device(n)
}

// NewIndex is an interface index for a tunnel's device: one that no device of the namespace has had, so that nothing that is bound to
// another tunnel's ever leaves by it. The kernel counts up from 1, and does not get there.
func NewIndex() int { return firstIndex + rand.IntN(indices) }

const (
	firstIndex = 0x4000_0000
	indices    = 1 << 24
)

// QUIC are the ports of HTTP/3, and of queries for names by QUIC (RFC 9114 and 9250), whose clients come by TCP where they are refused.
var QUIC = []uint16{443, 853}

// Priorities of routing rules: after that of the local table (0), before main (32766), which is not reached any more.
const (
	RuleDirect  = 1000
	RuleInbound = 1001
	RuleTunnel  = 1010 // and Tunnels more
	RuleMarked  = 1500 // what has another mark: nowhere
	RuleLookup  = 1501 // UDP to port 53
	RuleWeb     = 1502 // UDP to the ports of QUIC
	RuleUDP     = 1503
	RuleICMP    = 1504
	RuleTrap    = 1505
	RuleNone    = 1506
)

// Chain is the name of the tables of netfilter: nft lists them as forefend's.
const Chain = "forefend"

// Gateway is the name of a gateway's table of netfilter, GatewayDevice of its device. Both are in the namespace of a gateway, which guards no
// container; IsDevice knows neither.
const (
	Gateway       = "forefend-gateway"
	GatewayDevice = "ffgw"
)
