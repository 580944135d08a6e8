package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

func TestTunnels(t *testing.T) {
	c := mustLoad(t, `
[[tunnel]]
name = "uplink"
kind = "direct"
[[tunnel]]
name = "eu-1"
class = "eu"
encryption = "strong"
endpoints = ["192.0.2.1:51820", "gw.example.com:51820"]
public_key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
preshared_key_file = "/etc/forefend/keys/psk"
dedicated = 1
mtu = 1380
keepalive = "25s"
dead_after = "20s"
rate = "80mbit"
[[tunnel.slot]]
key_file = "/etc/forefend/keys/1"
addresses = ["10.8.0.2/32", "fd08::2"]
[[tunnel]]
name = "old"
kind = "openvpn"
encryption = "strong"
endpoints = ["192.0.2.3:1194"]
ca_file = "/etc/forefend/keys/ca.pem"
tls_crypt_file = "/etc/forefend/keys/crypt"
peer_fingerprints = ["`+strings.Repeat("AB:", 31)+`CD"]
peer_name = "gw.example.com"
ready = 1
[[tunnel.slot]]
cert_file = "/etc/forefend/keys/1.crt"
key_file = "/etc/forefend/keys/1.key"
addresses = ["10.9.0.0/24"]
`)
	want := []Tunnel{
		{Name: "uplink", Kind: TunnelDirect, MTU: 1420, DeadAfter: 15 * time.Second},
		{Name: "eu-1", Kind: TunnelWireGuard, Class: "eu", Encryption: flow.Strong, Endpoints: []string{"192.0.2.1:51820", "gw.example.com:51820"},
			PublicKey: "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", SharedFile: "/etc/forefend/keys/psk", Dedicated: 1, MTU: 1380,
			Rate: 10_000_000, Keepalive: 25 * time.Second, DeadAfter: 20 * time.Second,
			Slots: []TunnelSlot{{KeyFile: "/etc/forefend/keys/1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32"), netip.MustParsePrefix("fd08::2/128")}}}},
		{Name: "old", Kind: TunnelOpenVPN, Encryption: flow.Strong, Endpoints: []string{"192.0.2.3:1194"}, MTU: 1420, DeadAfter: 15 * time.Second,
			CAFile: "/etc/forefend/keys/ca.pem", TLSCryptFile: "/etc/forefend/keys/crypt", Fingerprints: []string{strings.Repeat("AB:", 31) + "CD"},
			PeerName: "gw.example.com", Ready: 1, Slots: []TunnelSlot{{
				CertFile: "/etc/forefend/keys/1.crt", KeyFile: "/etc/forefend/keys/1.key", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")},
			}}},
	}
	if !reflect.DeepEqual(c.Tunnels, want) {
		t.Errorf("got %+v\nwant %+v", c.Tunnels, want)
	}
}

func TestTunnelProblems(t *testing.T) {
	_, err := Load(write(t, `
[[tunnel]]
name = "a"
kind = "direct"
mtu = 1400
[[tunnel]]
name = "a"
encryption = "strong"
endpoints = ["192.0.2.1", ":51820", "x:0"]
public_key = "c2hvcnQ="
mtu = 500
dedicated = 2
[[tunnel.slot]]
key_file = "keys/1"
addresses = ["127.0.0.1", "fe80::1%eth0", "ff02::1", "nowhere"]
[[tunnel]]
kind = "ipsec"
encryption = "none"
[[tunnel]]
name = "b"
kind = "openvpn"
encryption = "strong"
endpoints = ["192.0.2.3:1194"]
public_key = "c2hvcnQ="
peer_fingerprints = ["AA:BB"]
peer_name = "a\"\nup /bin/sh"
ready = -1
rate = "8kbit"
[[tunnel.slot]]
key_file = "/k"
addresses = ["10.9.0.0/24"]
[[tunnel]]
name = "c"
kind = "openvpn"
endpoints = ["192.0.2.3:1194"]
`))
	for _, want := range []string{
		"config.toml:5: tunnel.mtu", "a tunnel above is called a too", `"192.0.2.1" is no endpoint`, `":51820" is no endpoint`, `"x:0" is no endpoint`,
		"no WireGuard key", "strong encryption is that with a pre-shared key", "tunnel.mtu", "tunnel.dedicated", "not an absolute path",
		`"127.0.0.1" is no address`, `"fe80::1%eth0" is no address`, `"ff02::1" is no address`, `"nowhere" is no address`, "a slot needs an address",
		"a tunnel needs a name", `"ipsec" is unknown`, `"none" is unknown`, "needs the gateway's endpoint", "0 slots",
		"a tunnel of OpenVPN needs to know its gateway", "no SHA-256 fingerprint", "no name that can be asked for", "config.toml:19: tunnel.tls_crypt_file",
		"tunnel.public_key", "tunnel.ready", "not a rate of a tunnel", "a slot needs a certificate and its key", "any server of the authority",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q in:\n%v", want, err)
		}
	}
}

func TestUplinks(t *testing.T) {
	c := mustLoad(t, `
[[tunnel]]
name = "uplink"
kind = "direct"
[[egress.uplink]]
device = "eth0"
rate = "950mbit"
[[egress.uplink]]
device = "bond0.17"
rate = "1mbit"
`)
	if want := []Uplink{{"eth0", 118_750_000}, {"bond0.17", 125_000}}; !reflect.DeepEqual(c.Egress.Uplinks, want) {
		t.Errorf("got %+v\nwant %+v", c.Egress.Uplinks, want)
	}
}

func TestUplinkProblems(t *testing.T) {
	_, err := Load(write(t, `
[[egress.uplink]]
device = "eth0"
rate = "950Mbit"
[[egress.uplink]]
device = "eth0"
rate = "999kbit"
burst = 7
[[egress.uplink]]
device = "lo"
[[egress.uplink]]
device = "of/a/path"
[[egress.uplink]]
device = "sixteen-letters-"
[[egress.uplink]]
rate = "10mbit"
`))
	for _, want := range []string{
		`config.toml:4: egress.uplink.rate: "950Mbit" is not a rate of an uplink`, "an uplink above is eth0 too", `"999kbit" is not a rate`, "egress.uplink.burst",
		`"lo" is no device`, `"of/a/path" is no device`, `"sixteen-letters-" is no device`, `"" is no device`, `"" is not a rate`, "runs where there are tunnels",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q in:\n%v", want, err)
		}
	}
}
