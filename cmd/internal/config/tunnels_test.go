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
[[tunnel.slot]]
key_file = "/etc/forefend/keys/1"
addresses = ["10.8.0.2/32", "fd08::2"]
`)
	want := []Tunnel{
		{Name: "uplink", Kind: TunnelDirect, MTU: 1420, DeadAfter: 15 * time.Second},
		{Name: "eu-1", Kind: TunnelWireGuard, Class: "eu", Encryption: flow.Strong, Endpoints: []string{"192.0.2.1:51820", "gw.example.com:51820"},
			PublicKey: "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", SharedFile: "/etc/forefend/keys/psk", Dedicated: 1, MTU: 1380,
			Keepalive: 25 * time.Second, DeadAfter: 20 * time.Second,
			Slots: []TunnelSlot{{"/etc/forefend/keys/1", []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32"), netip.MustParsePrefix("fd08::2/128")}}}},
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
kind = "openvpn"
encryption = "none"
`))
	for _, want := range []string{
		"config.toml:5: tunnel.mtu", "a tunnel above is called a too", `"192.0.2.1" is no endpoint`, `":51820" is no endpoint`, `"x:0" is no endpoint`,
		"no WireGuard key", "strong encryption is that with a pre-shared key", "tunnel.mtu", "tunnel.dedicated", "not an absolute path",
		`"127.0.0.1" is no address`, `"fe80::1%eth0" is no address`, `"ff02::1" is no address`, `"nowhere" is no address`, "a slot needs an address",
		"a tunnel needs a name", `"openvpn" is unknown`, `"none" is unknown`, "needs the gateway's endpoint", "0 slots",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q in:\n%v", want, err)
		}
	}
}
