// Package gateway is the far end of a node's tunnels (`forefend gateway`): it gives nodes that show a certificate peers of its WireGuard
// device for a while (leases), and lets what they send out by one uplink as its own, each peer within its addresses and its rate,
// and none to another (docs/gateway.md, docs/decisions/0074).
//
// Leases are written down before a node is told of them, and survive the process. They end when a node gives them back, when it is no
// longer in the list of clients, or when it does not renew them.
//
// Not for: the node's side (package provision has its client, package tunnel uses it), and files of configuration.
package gateway

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/wg"
)

// Config is one gateway.
type Config struct {
	Private   wg.Key
	Port      uint16       // of WireGuard's UDP
	Endpoints []string     // HOST:PORT, by which nodes reach it
	Pool4     netip.Prefix // of peers' addresses; zero: none
	Pool6     netip.Prefix // at most a /96
	Uplink    string       // the device by which peers' packets leave
	MTU       int          // of what goes through tunnels, in bytes
	Term      time.Duration
	Leases    int // at once, of all nodes
	Classes   []Class
	State     string // directory of what is written down
	Clients   []Client
}

// Class is a rate that each lease of it has for itself.
type Class struct {
	Name string
	Rate int64 // bytes per second each way
}

// Client is a node that may have leases.
type Client struct {
	Name    string   // in its certificate
	Leases  int      // at once
	Classes []string // that it may ask for, the first where it asks for none; empty: leases without a rate
}

// deviceName is the name of a gateway's device.
const deviceName = marks.GatewayDevice
