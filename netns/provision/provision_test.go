package provision

import (
	"net/netip"
	"strings"
	"testing"

	"forefend.dev/forefend/netns/wg"
)

func key(b byte) string { return wg.Key{b}.Text() }

func granted() Granted {
	return Granted{Version, Server{key(1), []string{"192.0.2.1:51820"}, 1420}, Lease{
		ID: strings.Repeat("0a", 16), PublicKey: key(2), Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32"), netip.MustParsePrefix("fd08::2/128")}, Seconds: 600,
	}}
}

// TestGranted refuses what a gateway must not grant.
func TestGranted(t *testing.T) {
	ok := granted()
	if err := ok.Check(key(2)); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Granted){
		"version":           func(g *Granted) { g.Version = 2 },
		"gateway's key":     func(g *Granted) { g.Server.PublicKey = "" },
		"another key":       func(g *Granted) { g.Lease.PublicKey = key(3) },
		"no endpoint":       func(g *Granted) { g.Server.Endpoints = nil },
		"endpoint":          func(g *Granted) { g.Server.Endpoints[0] = "192.0.2.1" },
		"MTU":               func(g *Granted) { g.Server.MTU = 500 },
		"id":                func(g *Granted) { g.Lease.ID = "../x" },
		"term":              func(g *Granted) { g.Lease.Seconds = 0 },
		"no address":        func(g *Granted) { g.Lease.Addresses = nil },
		"a net":             func(g *Granted) { g.Lease.Addresses[0] = netip.MustParsePrefix("10.8.0.0/24") },
		"loopback":          func(g *Granted) { g.Lease.Addresses[0] = netip.MustParsePrefix("127.0.0.1/32") },
		"pre-shared key":    func(g *Granted) { g.Lease.PresharedKey = "x" },
		"too many adresses": func(g *Granted) { g.Lease.Addresses = append(g.Lease.Addresses, g.Lease.Addresses...) },
	} {
		g := granted()
		change(&g)
		if err := g.Check(key(2)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// TestNewClient takes no address but that of a gateway.
func TestNewClient(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://gateway.example:7443": true, "https://192.0.2.1:7443/": true, "http://gateway.example": false, "https://": false,
		"https://gateway.example/x": false, "https://u@gateway.example": false, "gateway.example:7443": false, "https://a?b": false,
	} {
		if _, err := NewClient(address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// FuzzDecode reads messages of either side: what is read is bounded, and what passes the check is in order.
func FuzzDecode(f *testing.F) {
	f.Add(`{"version":1,"public_key":"` + key(1) + `"}`)
	f.Add(`{"version":1,"leases":["00000000000000000000000000000000"]}`)
	f.Add(`{"version":1,"server":{"public_key":"` + key(1) + `","endpoints":["a:1"],"mtu":1420},"lease":{"id":"00000000000000000000000000000000","public_key":"` +
		key(2) + `","addresses":["10.8.0.2/32"],"seconds":60}}`)
	f.Add(strings.Repeat("[", 10_000))
	f.Fuzz(func(t *testing.T, text string) {
		var g Granted
		if Decode(strings.NewReader(text), 4096, &g) == nil && g.Check(g.Lease.PublicKey) == nil {
			if len(text) > 4097+1 || !g.Lease.Addresses[0].Addr().IsGlobalUnicast() {
				t.Errorf("%+v", g)
			}
		}
		var r Renew
		if Decode(strings.NewReader(text), 4096, &r) == nil && r.Check() == nil && len(r.Leases) > MaxRenewed {
			t.Error("too many leases")
		}
		var a Allocate
		if Decode(strings.NewReader(text), 4096, &a) == nil {
			_ = a.Check()
		}
	})
}
