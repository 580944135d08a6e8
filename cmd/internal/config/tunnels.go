package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/policy"
)

// Tunnel is one that containers' outbound requests may take. Without any, the node has no egress policy.
type Tunnel struct {
	Name       string
	Kind       string // TunnelWireGuard, TunnelOpenVPN or TunnelDirect
	Class      string // tunnels of one class stand in for each other
	Encryption flow.Encryption

	Endpoints    []string // HOST:PORT of the gateway
	PublicKey    string   // the gateway's
	SharedFile   string   // with the pre-shared key
	CAFile       string   // of OpenVPN, as the next ones
	TLSCryptFile string
	Fingerprints []string // of the gateway's certificate
	PeerName     string
	Ready        int // devices that wait, connected

	Gateway   TunnelGateway
	Slots     []TunnelSlot
	Dedicated int // slots that are kept for dedicated use
	MTU       int
	Rate      int64 // bytes a second that each device may send; 0: no limit
	Keepalive time.Duration
	DeadAfter time.Duration
}

// TunnelSlot is one peer of a gateway.
type TunnelSlot struct {
	KeyFile   string
	CertFile  string // of OpenVPN
	Addresses []netip.Prefix
}

// TunnelGateway gives peers out, instead of slots that are configured.
type TunnelGateway struct {
	Identity
	Address string // https://HOST:PORT, "": none
	Class   string // of rates, as the gateway names it
	Leases  int    // peers at once
	Ready   int    // peers that are there before they are asked for
	Rekey   time.Duration

	ReceiptKey string // public one of its receipts, in base64; "": the first that it shows
}

// What tunnels are made of.
const (
	TunnelWireGuard = "wireguard"
	TunnelOpenVPN   = "openvpn"
	TunnelDirect    = "direct"
)

// Bounds of a tunnel. IPv6 needs 1280 bytes; a slot is a peer of the gateway, and a /16 of them enough.
const (
	leastMTU, mostMTU = 1280, 65000
	maxSlots          = 4096
	leastRate         = 64_000 / 8 // bytes a second: below, a packet takes longer than anybody waits
	maxReady          = 64
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
	t.word("kind", &r.Kind, TunnelWireGuard, TunnelOpenVPN, TunnelDirect)
	if t.text("class", &r.Class); r.Class != "" {
		if err := policy.CheckIdentity(r.Class); err != nil {
			t.problem(t.at("class"), `write a name such as "eu"`, "%s", err)
		}
	}
	switch r.Kind {
	case TunnelWireGuard:
		if t.provisioned(&r) {
			break
		}
		t.gateway(&r)
		t.wireGuard(&r)
		t.slots(&r, (*table).slot)
	case TunnelOpenVPN:
		t.gateway(&r)
		t.openVPN(&r)
		t.slots(&r, (*table).certified)
	}
	t.rest()
	return r
}

// gateway reads what all tunnels to a gateway have whose slots are configured.
func (t *table) gateway(r *Tunnel) {
	t.common(r)
	t.endpoints("endpoints", &r.Endpoints)
}

// common reads what all tunnels to a gateway have.
func (t *table) common(r *Tunnel) {
	level := flow.Standard.String()
	t.word("encryption", &level, flow.Standard.String(), flow.Strong.String())
	_ = r.Encryption.UnmarshalText([]byte(level)) // it is one of the words
	t.integer("mtu", &r.MTU, leastMTU, mostMTU)
	t.duration("dead_after", &r.DeadAfter, 6*time.Second, time.Hour)
	var rate string
	if t.text("rate", &rate) {
		var ok bool
		if r.Rate, ok = parseRate(rate); !ok || r.Rate < leastRate {
			t.problem(t.at("rate"), `write bits a second with a unit, as "50mbit", 64kbit at least`, "%.60q is not a rate of a tunnel", rate)
		}
	}
}

// wireGuard reads what only tunnels of WireGuard have.
func (t *table) wireGuard(r *Tunnel) {
	t.text("public_key", &r.PublicKey)
	if key, err := base64.StdEncoding.Strict().DecodeString(r.PublicKey); err != nil || len(key) != 32 {
		t.problem(t.at("public_key"), "write what wg pubkey printed, 44 characters", "the gateway's public key is no WireGuard key")
	}
	t.file("preshared_key_file", &r.SharedFile, "/etc/forefend/keys/psk")
	if r.Encryption == flow.Strong && r.SharedFile == "" {
		t.problem(t.at("preshared_key_file"), "name a file with what wg genpsk printed, of mode 600", "strong encryption is that with a pre-shared key")
	}
	t.duration("keepalive", &r.Keepalive, 0, time.Hour)
}

// slots reads the slots of a tunnel, each as its kind has them.
func (t *table) slots(r *Tunnel, read func(*table) TunnelSlot) {
	for _, slot := range t.subs("slot") {
		r.Slots = append(r.Slots, read(slot))
	}
	if n := len(r.Slots); n == 0 || n > maxSlots {
		t.problem(t.at("slot"), "write a [[tunnel.slot]] for each container that may use it at once", "%d slots, a tunnel has 1 to %d", n, maxSlots)
	}
	t.integer("dedicated", &r.Dedicated, 0, len(r.Slots))
}

// provisioned reads a tunnel whose peers a gateway gives out; false: they are configured.
func (t *table) provisioned(r *Tunnel) bool {
	g := &r.Gateway
	if !t.text("gateway", &g.Address) {
		return false
	}
	u, err := url.Parse(g.Address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" || u.User != nil {
		t.problem(t.at("gateway"), `write an address such as "https://gateway.example:7443"`, "%.100q is no address of a gateway", g.Address)
	}
	t.common(r)
	t.duration("keepalive", &r.Keepalive, 0, time.Hour)
	g.Leases, g.Ready, g.Rekey = 64, 1, time.Hour
	t.identity(&g.Identity, true)
	t.text("rate_class", &g.Class)
	t.integer("leases", &g.Leases, 1, maxSlots)
	t.integer("ready", &g.Ready, 0, min(g.Leases, maxReady))
	t.duration("rekey", &g.Rekey, 0, 30*day)
	if t.text("receipt_key", &g.ReceiptKey) {
		if key, err := base64.StdEncoding.Strict().DecodeString(g.ReceiptKey); err != nil || len(key) != ed25519.PublicKeySize {
			t.problem(t.at("receipt_key"), "write what the gateway's log says at its start, 44 characters", "%.60q is not the key of a gateway's receipts", g.ReceiptKey)
		}
	}
	r.Slots = make([]TunnelSlot, g.Leases)
	t.integer("dedicated", &r.Dedicated, 0, g.Leases)
	return true
}

func (t *table) slot() TunnelSlot {
	var s TunnelSlot
	t.file("key_file", &s.KeyFile, "/etc/forefend/keys/slot-1")
	if s.KeyFile == "" {
		t.problem(t.at("key_file"), "name a file with what wg genkey printed, of mode 600", "a slot needs its private key")
	}
	s.Addresses = t.addresses(`write addresses = ["10.8.0.2/32"], what the gateway allows this key`)
	t.rest()
	return s
}

// addresses reads those of a slot.
func (t *table) addresses(fix string) (all []netip.Prefix) {
	t.strings("addresses", func(path []string, text string) {
		p, err := netip.ParsePrefix(text)
		if a, bare := netip.ParseAddr(text); bare == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" || !p.Addr().IsGlobalUnicast() {
			t.problem(path, `write an address such as "10.8.0.2/32"`, "%.60q is no address of a slot", text)
			return
		}
		all = append(all, p)
	})
	if len(all) == 0 {
		t.problem(t.at("addresses"), fix, "a slot needs an address")
	}
	return all
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// Bounds of endpoints: what nodes take of a gateway (package provision, which a shim is not to have because of them).
const (
	maxEndpoints = 8
	maxEndpoint  = 300 // bytes
)

// endpoints reads where a gateway is reached: one at least, and no more than nodes take of a gateway.
func (t *table) endpoints(key string, into *[]string) {
	t.strings(key, func(path []string, s string) {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || !isPort(port) || len(s) > maxEndpoint {
			t.problem(path, `write HOST:PORT, such as "192.0.2.1:51820"`, "%.60q is no endpoint", s)
		}
		*into = append(*into, s)
	})
	switch n := len(*into); {
	case n == 0:
		t.problem(t.at(key), `write endpoints = ["HOST:PORT"]`, "a tunnel needs the gateway's endpoint")
	case n > maxEndpoints:
		t.problem(t.at(key), "write fewer", "%d endpoints, a gateway has at most %d", n, maxEndpoints)
	}
}
