package openvpn

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config is one connection to a gateway.
type Config struct {
	CA, Cert, Key []byte   // PEM
	TLSCrypt      []byte   // the key that both sides share before they have spoken; empty: none
	Fingerprints  []string // of the gateway's certificate, SHA-256 in hex with colons; any of them
	PeerName      string   // the common name in it; "": any
	Endpoint      netip.AddrPort
	Allowed       []netip.Prefix // in which the addresses must be that the gateway gives
	MTU           int
	DeadAfter     time.Duration // nothing was heard for so long: connect anew
}

// pulled are the options that a server may set: whose addresses these are, and how keys are agreed on.
var pulled = []string{"ifconfig ", "ifconfig-ipv6 ", "topology ", "peer-id ", "cipher ", "protocol-flags ", "key-derivation "}

// tunMTU is what openvpn itself must take: the least that its peers expect.
const tunMTU = 1500

// text is the configuration in openvpn's words, for a TUN that is there and a management socket.
func (c *Config) text(tun, socket string) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("client\nnobind\nproto udp\ndev-type tun\ndev %s\npersist-tun\npersist-key\ndisable-dco", tun)
	say("remote %s %d", c.Endpoint.Addr(), c.Endpoint.Port()) // asked for anew each time
	say("management %s unix\nmanagement-client\nmanagement-hold\nmanagement-query-remote", socket)
	say("passtos\nscript-security 0\nroute-noexec\nifconfig-noexec\nallow-compression no\nauth-nocache\nauth-retry none")
	for _, option := range pulled {
		say("pull-filter accept %q", option)
	}
	say(`pull-filter ignore ""`)
	say("remote-cert-tls server\ntls-version-min 1.2\ndata-ciphers AES-256-GCM:CHACHA20-POLY1305:AES-128-GCM")
	if c.PeerName != "" {
		say("verify-x509-name %q name", c.PeerName)
	}
	say("tun-mtu %d\nmssfix 0", max(c.MTU, tunMTU)) // the route announces what fits (package route)
	dead := int(c.DeadAfter / time.Second)
	say("ping %d\nping-restart %d\nconnect-retry 1 30\nhand-window %d\nexplicit-exit-notify 1", max(1, dead/3), dead, max(handshakeWindow, dead))
	say("verb 3\nsuppress-timestamps\nmute-replay-warnings")
	inline := func(tag string, body []byte) {
		if len(body) > 0 {
			say("<%s>\n%s\n</%s>", tag, strings.TrimSpace(string(body)), tag)
		}
	}
	inline("ca", c.CA)
	inline("cert", c.Cert)
	inline("key", c.Key)
	inline("tls-crypt", c.TLSCrypt)
	inline("peer-fingerprint", []byte(strings.Join(c.Fingerprints, "\n")))
	return b.String()
}

// handshakeWindow is the least time in seconds that a TLS handshake may take.
const handshakeWindow = 10

// allows tells whether an address is one that the gateway may give.
func (c *Config) allows(a netip.Addr) bool {
	for _, p := range c.Allowed {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
