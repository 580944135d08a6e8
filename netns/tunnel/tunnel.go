// Package tunnel chooses tunnels and keeps count of who has which (Pool), and serves that to a node (Service), with the devices in
// the containers' namespaces (package egress). Its process is `forefend tunneld`: it alone holds keys and sockets, and outlives the
// daemon. When it ends, so do the devices, and what went through them goes nowhere.
package tunnel

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/wg"
)

// Kind is what a tunnel is made of.
type Kind string

// The kinds.
const (
	WireGuard Kind = "wireguard"
	OpenVPN   Kind = "openvpn"
	Direct    Kind = "direct" // the container's own uplink, without encryption
)

// Tunnel is one that the node may use, as configured.
type Tunnel struct {
	Name       string
	Kind       Kind
	Class      string // tunnels of one class stand in for each other; "": the tunnel's own name
	Encryption flow.Encryption

	Endpoints  []string // HOST:PORT, of one gateway; the first that answers
	PublicKey  wg.Key   // the gateway's, of WireGuard
	SharedFile string   // file with the pre-shared key of WireGuard, "" for none
	OpenVPN    OpenVPNSettings
	Gateway    Gateway // where peers come from; then a slot is one's place, and has neither key nor addresses
	Slots      []Slot
	Dedicated  int // how many of the slots are kept for dedicated leases, the last ones
	MTU        int
	Rate       int64 // bytes a second that a device may send; 0: no limit
	Keepalive  time.Duration
	DeadAfter  time.Duration // so long after something was sent and nothing came back, the gateway counts as gone
}

// Slot is one peer of the gateway: a key and the addresses that it is allowed. Two devices cannot use one at once.
type Slot struct {
	KeyFile   string
	CertFile  string         // of OpenVPN
	Addresses []netip.Prefix // of OpenVPN, those in which the gateway gives one
}

// class is what the tunnel stands in for.
func (t *Tunnel) class() string {
	if t.Class != "" {
		return t.Class
	}
	return t.Name
}
