package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"forefend.dev/forefend/runtime/policy"
)

// DefaultGatewayPath is the file of `forefend gateway` when no other is named.
const DefaultGatewayPath = "/etc/forefend/gateway.toml"

// Gateway is what gateway.toml says, complete.
type Gateway struct {
	Path string // the file read

	State     string // directory of what is written down
	LogLevel  string // error, warn, info or debug
	LogFormat string // text or json
	Metrics   Metrics

	Identity
	Listen string // HOST:PORT of TCP, where nodes ask

	KeyFile   string   // of WireGuard
	Port      int      // of WireGuard's UDP
	Endpoints []string // HOST:PORT of that, as nodes reach it
	MTU       int      // of what goes through tunnels, in bytes
	Pool4     netip.Prefix
	Pool6     netip.Prefix
	Uplink    string // device; "": that of the default route
	Term      time.Duration
	Leases    int // at once, of all clients

	Classes []GatewayClass
	Clients []GatewayClient
}

// GatewayClass is a rate of each lease.
type GatewayClass struct {
	Name string
	Rate int64 // bytes per second
}

// GatewayClient is a node that may have leases.
type GatewayClient struct {
	Name    string
	Leases  int
	Classes []string
}

// Bounds of a gateway.
const (
	maxGatewayLeases  = 65000
	maxGatewayClasses = 64
	maxNodeName       = 253
)

// LoadGateway reads the file at path. What is wrong with its content comes as Problems.
func LoadGateway(path string) (*Gateway, error) { return load(path, parseGateway) }

// parseGateway reads a whole file, as parse does config.toml.
func parseGateway(path string, data []byte) (*Gateway, Problems) {
	var values map[string]any
	if _, err := toml.Decode(string(data), &values); err != nil {
		return nil, Problems{syntax(path, err)}
	}
	g := &Gateway{Path: path, State: "/var/lib/forefend-gateway", LogLevel: "info", LogFormat: "text", Metrics: Metrics{Listen: metricsUnix}, Listen: ":7443", Port: 51820, MTU: 1420,
		Term: 10 * time.Minute, Leases: 4096}
	r := &reader{file: path, lines: scanLines(string(data))}
	top := &table{reader: r, values: values}
	g.readTop(top)
	g.readWireGuard(top.sub("wireguard"))
	g.readClasses(top)
	g.readClients(top)
	metrics := top.sub("metrics")
	metrics.listen("listen", &g.Metrics.Listen)
	metrics.rest()
	top.rest()
	sortProblems(r.problems)
	return g, r.problems
}

func (g *Gateway) readTop(t *table) {
	t.directory("state", &g.State)
	t.word("log_level", &g.LogLevel, "error", "warn", "info", "debug")
	t.word("log_format", &g.LogFormat, "text", "json")
	t.address("listen", &g.Listen, ":7443", true)
	t.identity(&g.Identity, true)
	t.text("uplink", &g.Uplink)
	if len(g.Uplink) > 15 || strings.ContainsAny(g.Uplink, "/ \x00\n") {
		t.problem(t.at("uplink"), `write a device such as "eth0"; without one it is that of the default route`, "%.30q is no device", g.Uplink)
	}
	t.strings("pools", func(path []string, text string) { g.pool(t, path, text) })
	if !g.Pool4.IsValid() && !g.Pool6.IsValid() {
		t.problem(t.at("pools"), `write pools = ["10.8.0.0/16", "fd08::/64"], addresses that are used nowhere else`, "a gateway needs addresses for its peers")
	}
	t.duration("term", &g.Term, 10*time.Second, day)
	t.integer("leases", &g.Leases, 1, maxGatewayLeases)
}

// pool reads one of at most one for each family.
func (g *Gateway) pool(t *table, path []string, text string) {
	p, err := netip.ParsePrefix(text)
	private := err == nil && p == p.Masked() && p.Addr().Zone() == "" && !p.Addr().Is4In6()
	switch {
	case private && p.Addr().Is4() && p.Bits() >= 8 && p.Bits() <= 30 && !g.Pool4.IsValid():
		g.Pool4 = p
	case private && p.Addr().Is6() && p.Bits() >= 32 && p.Bits() <= 96 && !g.Pool6.IsValid():
		g.Pool6 = p
	default:
		t.problem(path, `write one of IPv4 (/8 to /30), one of IPv6 (/32 to /96), or both, such as "10.8.0.0/16" and "fd08::/64"`, "%.60q is no pool", text)
	}
}

func (g *Gateway) readWireGuard(t *table) {
	t.file("private_key_file", &g.KeyFile, "/etc/forefend/gateway/wireguard.key")
	if g.KeyFile == "" {
		t.problem(t.at("private_key_file"), "name a file with what wg genkey printed, of mode 600", "is missing")
	}
	t.integer("port", &g.Port, 1, 65535)
	t.endpoints("endpoints", &g.Endpoints)
	t.integer("mtu", &g.MTU, leastMTU, mostMTU)
	t.rest()
}

func (g *Gateway) readClasses(top *table) {
	list := top.subs("class")
	if len(list) > maxGatewayClasses {
		top.problem(top.at("class"), "write fewer", "%d classes, a gateway has at most %d", len(list), maxGatewayClasses)
	}
	for _, t := range list {
		var c GatewayClass
		var rate string
		t.text("name", &c.Name)
		if err := policy.CheckIdentity(c.Name); err != nil || len(c.Name) > 64 {
			t.problem(t.at("name"), `write a name such as "bulk"`, "a class needs a name of 1 to 64 printable characters without spaces")
		}
		if slices.ContainsFunc(g.Classes, func(o GatewayClass) bool { return o.Name == c.Name }) {
			t.problem(t.at("name"), "give each class a name of its own", "a class above is called %s too", short(c.Name))
		}
		t.text("rate", &rate)
		var ok bool
		if c.Rate, ok = parseRate(rate); !ok {
			t.problem(t.at("rate"), `write a rate such as "50mbit"`, "%.30q is no rate", rate)
		}
		t.rest()
		g.Classes = append(g.Classes, c)
	}
}

func (g *Gateway) readClients(top *table) {
	names := make(map[string]bool)
	for _, t := range top.subs("client") {
		c := GatewayClient{Leases: 256}
		t.text("name", &c.Name)
		if err := policy.CheckIdentity(c.Name); err != nil || len(c.Name) > maxNodeName {
			t.problem(t.at("name"), `write the name in its certificate, such as "node-1.example"`, "a client needs a name")
		}
		if names[c.Name] {
			t.problem(t.at("name"), "write each client once", "a client above is called %s too", short(c.Name))
		}
		names[c.Name] = true
		t.integer("leases", &c.Leases, 1, maxGatewayLeases)
		t.strings("classes", func(path []string, s string) {
			if !slices.ContainsFunc(g.Classes, func(o GatewayClass) bool { return o.Name == s }) {
				t.problem(path, "write a [[class]] with that name", "%.60q is not a class of this gateway", s)
			}
			c.Classes = append(c.Classes, s)
		})
		t.rest()
		g.Clients = append(g.Clients, c)
	}
}
