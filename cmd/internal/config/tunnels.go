package config

import (
	"encoding/base64"
	"net"
	"net/netip"
	"strconv"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/policy"
)

// Tunnel is one that containers' outbound requests may take. Without any, the node has no egress policy.
type Tunnel struct {
	Name       string
	Kind       string // TunnelWireGuard or TunnelDirect
	Class      string // tunnels of one class stand in for each other
	Encryption flow.Encryption

	Endpoints  []string // HOST:PORT of the gateway
	PublicKey  string   // the gateway's
	SharedFile string   // with the pre-shared key
	Slots      []TunnelSlot
	Dedicated  int // slots that are kept for dedicated use
	MTU        int
	Keepalive  time.Duration
	DeadAfter  time.Duration
}

// TunnelSlot is one peer of a gateway.
type TunnelSlot struct {
	KeyFile   string
	Addresses []netip.Prefix
}

// What tunnels are made of.
const (
	TunnelWireGuard = "wireguard"
	TunnelDirect    = "direct"
)

// Bounds of a tunnel. IPv6 needs 1280 bytes; a slot is a peer of the gateway, and a /16 of them enough.
const (
	leastMTU, mostMTU = 1280, 65000
	maxSlots          = 4096
)

func (c *Config) readTunnels(top *table) {
	names := make(map[string]bool)
	for _, t := range top.subs("tunnel") {
		tunnel := t.tunnel()
		if names[tunnel.Name] {
			t.problem(t.at("name"), "give each tunnel a name of its own", "a tunnel above is called %s too", short(tunnel.Name))
		}
		names[tunnel.Name] = true
		c.Tunnels = append(c.Tunnels, tunnel)
	}
}

func (t *table) tunnel() Tunnel {
	r := Tunnel{Kind: TunnelWireGuard, MTU: 1420, DeadAfter: 15 * time.Second}
	t.text("name", &r.Name)
	if err := policy.CheckIdentity(r.Name); err != nil {
		t.problem(t.at("name"), `write name = "…", by which rules and forefend tunnel know it`, "a tunnel needs a name: %s", err)
	}
	t.word("kind", &r.Kind, TunnelWireGuard, TunnelDirect)
	if t.text("class", &r.Class); r.Class != "" {
		if err := policy.CheckIdentity(r.Class); err != nil {
			t.problem(t.at("class"), `write a name such as "eu"`, "%s", err)
		}
	}
	if r.Kind == TunnelWireGuard {
		t.wireGuard(&r)
	}
	t.rest()
	return r
}

// wireGuard reads what only tunnels of WireGuard have.
func (t *table) wireGuard(r *Tunnel) {
	level := flow.Standard.String()
	t.word("encryption", &level, flow.Standard.String(), flow.Strong.String())
	_ = r.Encryption.UnmarshalText([]byte(level)) // it is one of the words
	t.strings("endpoints", func(path []string, s string) {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || !isPort(port) {
			t.problem(path, `write HOST:PORT, such as "192.0.2.1:51820"`, "%.60q is no endpoint", s)
		}
		r.Endpoints = append(r.Endpoints, s)
	})
	if len(r.Endpoints) == 0 {
		t.problem(t.at("endpoints"), `write endpoints = ["HOST:PORT"]`, "a tunnel needs the gateway's endpoint")
	}
	t.text("public_key", &r.PublicKey)
	if key, err := base64.StdEncoding.Strict().DecodeString(r.PublicKey); err != nil || len(key) != 32 {
		t.problem(t.at("public_key"), "write what wg pubkey printed, 44 characters", "the gateway's public key is no WireGuard key")
	}
	t.file("preshared_key_file", &r.SharedFile, "/etc/forefend/keys/psk")
	if r.Encryption == flow.Strong && r.SharedFile == "" {
		t.problem(t.at("preshared_key_file"), "name a file with what wg genpsk printed, of mode 600", "strong encryption is that with a pre-shared key")
	}
	t.integer("mtu", &r.MTU, leastMTU, mostMTU)
	t.duration("keepalive", &r.Keepalive, 0, time.Hour)
	t.duration("dead_after", &r.DeadAfter, 6*time.Second, time.Hour)
	for _, slot := range t.subs("slot") {
		r.Slots = append(r.Slots, slot.slot())
	}
	if n := len(r.Slots); n == 0 || n > maxSlots {
		t.problem(t.at("slot"), "write a [[tunnel.slot]] for each container that may use it at once", "%d slots, a tunnel has 1 to %d", n, maxSlots)
	}
	t.integer("dedicated", &r.Dedicated, 0, len(r.Slots))
}

func (t *table) slot() TunnelSlot {
	var s TunnelSlot
	t.file("key_file", &s.KeyFile, "/etc/forefend/keys/slot-1")
	if s.KeyFile == "" {
		t.problem(t.at("key_file"), "name a file with what wg genkey printed, of mode 600", "a slot needs its private key")
	}
	t.strings("addresses", func(path []string, text string) {
		p, err := netip.ParsePrefix(text)
		if a, bare := netip.ParseAddr(text); bare == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" || !p.Addr().IsGlobalUnicast() {
			t.problem(path, `write an address such as "10.8.0.2/32"`, "%.60q is no address of a slot", text)
			return
		}
		s.Addresses = append(s.Addresses, p)
	})
	if len(s.Addresses) == 0 {
		t.problem(t.at("addresses"), `write addresses = ["10.8.0.2/32"], what the gateway allows this key`, "a slot needs an address")
	}
	t.rest()
	return s
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}
