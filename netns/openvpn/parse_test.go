package openvpn

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseState(t *testing.T) {
	for text, want := range map[string]string{
		"1795968249,CONNECTED,SUCCESS,10.9.0.2,127.0.0.1,1194,,,fd09::2": "CONNECTED SUCCESS [10.9.0.2 fd09::2]",
		"1795968249,CONNECTED,SUCCESS,10.9.0.2,127.0.0.1,1194,,":         "CONNECTED SUCCESS [10.9.0.2]",
		"1795968249,RECONNECTING,ping-restart,,,,,":                      "RECONNECTING ping-restart []",
		"1,CONNECTED,SUCCESS,fe80::1%eth0,,,,,":                          "CONNECTED SUCCESS []",
		"":                                                               "  []",
	} {
		s := parseState(text)
		if got := fmt.Sprint(s.name, " ", s.detail, " ", s.addresses); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestText: what a file holds stays what it is in the configuration, and keys are nowhere else.
func TestText(t *testing.T) {
	c := Config{
		CA: []byte("CA\n"), Cert: []byte("CERT"), Key: []byte("KEY"), Fingerprints: []string{"AA:BB", "CC:DD"}, PeerName: "gw",
		Endpoint: netip.MustParseAddrPort("[2001:db8::1]:1194"), MTU: 1400, DeadAfter: 15 * time.Second,
	}
	text := c.text("ffv1", "/dev/net/ffv1")
	for _, want := range []string{
		"\nremote 2001:db8::1 1194\n", "\n<ca>\nCA\n</ca>\n", "\n<peer-fingerprint>\nAA:BB\nCC:DD\n</peer-fingerprint>\n", "\nverify-x509-name \"gw\" name\n",
		"\nping-restart 15\n", "\nscript-security 0\n", "\npull-filter ignore \"\"\n", "\ntun-mtu 1500\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "tls-crypt") {
		t.Error("a key that there is not")
	}
	if i, j := strings.LastIndex(text, "pull-filter accept"), strings.Index(text, "pull-filter ignore"); i > j {
		t.Error("the first filter that fits counts: everything is ignored before it is taken")
	}
}

// FuzzManagement: what an openvpn says has come from the network in part.
func FuzzManagement(f *testing.F) {
	f.Add(">STATE:1,CONNECTED,SUCCESS,10.9.0.2,,,,,\n>BYTECOUNT:1,2\n>REMOTE:a,1,udp\nSUCCESS: x\n>FATAL:AUTH_FAILED\n>HOLD:\n")
	f.Fuzz(func(t *testing.T, text string) {
		var s said
		_, _ = s.Write([]byte(text)) // it never fails
		if len(s.last()) > 300 || len(s.part) > maxLine {
			t.Fatalf("%d bytes of reason, %d of a line", len(s.last()), len(s.part))
		}
		for line := range strings.Lines(text) {
			e, ok := parseEvent(strings.TrimSpace(line))
			if !ok {
				continue
			}
			for _, a := range parseState(e.text).addresses {
				if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
					t.Fatalf("address %s", a)
				}
			}
			_, _ = parseBytes(e.text)
			_ = logged(e.text)
		}
	})
}
