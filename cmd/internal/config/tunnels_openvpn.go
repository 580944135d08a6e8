package config

import (
	"regexp"
	"sync"

	"forefend.dev/forefend/netns/flow"
)

// What openvpn is told as it stands: nothing that would end a line or a word of its configuration. Made on first use:
// three shim processes in a container's life would make them, and look at none.
var (
	fingerprint = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31}$`) })
	peerName    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$`) })
)

// openVPN reads what only tunnels of OpenVPN have.
func (t *table) openVPN(r *Tunnel) {
	t.file("ca_file", &r.CAFile, "/etc/forefend/keys/ca.pem")
	if r.CAFile == "" {
		t.problem(t.at("ca_file"), "name a file with the certificate of the gateway's authority", "a tunnel of OpenVPN needs to know its gateway")
	}
	t.strings("peer_fingerprints", func(path []string, s string) {
		if !fingerprint().MatchString(s) {
			t.problem(path, "write what openssl x509 -noout -fingerprint -sha256 prints after the =", "%.100q is no SHA-256 fingerprint", s)
		}
		r.Fingerprints = append(r.Fingerprints, s)
	})
	if t.text("peer_name", &r.PeerName); r.PeerName != "" && !peerName().MatchString(r.PeerName) {
		t.problem(t.at("peer_name"), "write the common name in the gateway's certificate: letters, digits, blanks and ._@-", "%.80q is no name that can be asked for", r.PeerName)
	}
	if len(r.Fingerprints) == 0 && r.PeerName == "" {
		t.problem(t.at("peer_fingerprints"), "write peer_fingerprints or peer_name", "any server of the authority could be the gateway")
	}
	t.file("tls_crypt_file", &r.TLSCryptFile, "/etc/forefend/keys/tls-crypt.key")
	if r.Encryption == flow.Strong && r.TLSCryptFile == "" {
		t.problem(t.at("tls_crypt_file"), "name a file with what openvpn --genkey secret made, of mode 600", "strong encryption is that with a pre-shared key")
	}
	t.integer("ready", &r.Ready, 0, maxSlots)
}

// certified reads a slot whose key has a certificate.
func (t *table) certified() TunnelSlot {
	var s TunnelSlot
	t.file("cert_file", &s.CertFile, "/etc/forefend/keys/slot-1.crt")
	t.file("key_file", &s.KeyFile, "/etc/forefend/keys/slot-1.key")
	if s.CertFile == "" || s.KeyFile == "" {
		t.problem(t.at("cert_file"), "name the files of its certificate and key, the key's of mode 600", "a slot needs a certificate and its key")
	}
	s.Addresses = t.addresses(`write addresses = ["10.9.0.0/24"], in which the gateway gives the slot its own`)
	t.rest()
	return s
}
