package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/provision"
)

// gatewayExample is the file that docs/gateway.md shows.
func gatewayExample(t testing.TB) string {
	t.Helper()
	doc, err := os.ReadFile("../../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```toml\n")
	text, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatal("docs/gateway.md shows no file")
	}
	return text
}

func TestGatewayExample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.toml")
	if err := os.WriteFile(path, []byte(gatewayExample(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := LoadGateway(path)
	if err != nil {
		t.Fatal(err)
	}
	if g.Term != 10*time.Minute || g.Pool4.String() != "10.8.0.0/16" || g.Pool6.String() != "fd08::/64" || g.Classes[0].Rate != 50e6/8 || g.Clients[0].Leases != 256 ||
		g.Clients[0].Classes[0] != "bulk" || g.Port != 51820 || g.Uplink != "eth0" || g.Metrics.Listen != "unix" || g.Listen != ":7443" {
		t.Errorf("%+v", g)
	}
}

// TestGatewayProblems names what is wrong with a file, all of it at once.
func TestGatewayProblems(t *testing.T) {
	for text, want := range map[string]string{
		``:                                       "gateway.toml: ca: is missing",
		`pools = ["10.8.0.0/16", "10.9.0.0/16"]`: "is no pool",
		`pools = ["10.8.0.1/16"]`:                "is no pool",
		`pools = ["fd08::/120"]`:                 "is no pool",
		`listen = "7443"`:                        "no address with a port",
		`uplink = "../x"`:                        "is no device",
		`term = "1s"`:                            "out of range",
		"[metrics]\nlisten = \"0.0.0.0:9470\"":   "not an address of the loopback interface",
		`leases = 0`:                             "not in range",
		"[wireguard]\nmtu = 100":                 "not in range",
		"[wireguard]\nendpoints = [\"x\"]":       "is no endpoint",
		"[wireguard]\nendpoints = [" + strings.Repeat("\"a:1\", ", provision.MaxEndpoints+1) + "]": "9 endpoints, a gateway has at most 8",
		"[wireguard]\nendpoints = [\"" + strings.Repeat("a", provision.MaxEndpoint) + ":1\"]":      "is no endpoint",
		"[[class]]\nname = \"a\"\nrate = \"fast\"":                                                 "is no rate",
		"[[class]]\nname = \"a b\"\nrate = \"1mbit\"":                                              "a class needs a name",
		"[[client]]\nname = \"a\"\nclasses = [\"none\"]":                                           "not a class of this gateway",
		"[[client]]\nname = \"a\"\n[[client]]\nname = \"a\"":                                       "called a too",
		"[[client]]\nnome = \"a\"":                                                                 "did you mean name?",
		"[[class]]\nname=\"a\"\nrate=\"1mbit\"\n[[class]]\nname=\"a\"\n":                           "called a too",
	} {
		_, problems := parseGateway("gateway.toml", []byte(text))
		if all := problems.Error(); !strings.Contains(all, want) {
			t.Errorf("%q: want %q, got\n%s", text, want, all)
		}
	}
}

// TestEndpoints takes as many of a gateway as nodes do.
func TestEndpoints(t *testing.T) {
	longest := strings.Repeat("a", provision.MaxEndpoint-2) + ":1"
	_, problems := parseGateway("gateway.toml", []byte("[wireguard]\nendpoints = ["+strings.Repeat("\""+longest+"\", ", provision.MaxEndpoints)+"]"))
	if strings.Contains(problems.Error(), "endpoint") {
		t.Error(problems)
	}
}

// TestTunnelOfGateway reads a tunnel whose peers a gateway gives out.
func TestTunnelOfGateway(t *testing.T) {
	const head = "[[tunnel]]\nname = \"far\"\ngateway = \"https://gw.example:7443\"\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n"
	c := mustLoad(t, head)
	if one := c.Tunnels[0]; one.Gateway.Leases != 64 || len(one.Slots) != 64 || one.Gateway.Ready != 1 || one.Gateway.Rekey != time.Hour || one.Gateway.CA != "/ca" {
		t.Errorf("%+v", one)
	}
	for text, want := range map[string]string{
		strings.Replace(head, "https", "http", 1):  "is no address of a gateway",
		strings.Replace(head, "cert = ", "#", 1):   "is missing",
		head + "ready = 100\n":                     "not in range",
		head + "public_key = \"x\"\n":              "unknown key",
		head + "[[tunnel.slot]]\nkey_file = \"x\"": "unknown key",
	} {
		_, problems := parse("config.toml", []byte(text))
		if all := problems.Error(); !strings.Contains(all, want) {
			t.Errorf("%q: want %q, got\n%s", text, want, all)
		}
	}
}

// FuzzGateway reads any file without harm: what is in order keeps to the bounds.
func FuzzGateway(f *testing.F) {
	f.Add(gatewayExample(f))
	f.Add("pools = [\"0.0.0.0/0\"]\n[[client]]")
	f.Fuzz(func(t *testing.T, text string) {
		g, problems := parseGateway("gateway.toml", []byte(text))
		if len(problems) > 0 {
			_ = problems.Error()
			return
		}
		if g.Leases < 1 || g.Leases > maxGatewayLeases || g.Term < 10*time.Second || len(g.Endpoints) == 0 || !g.Pool4.IsValid() && !g.Pool6.IsValid() {
			t.Errorf("%+v", g)
		}
	})
}
