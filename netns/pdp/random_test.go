package pdp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// chance makes rules and contexts from few words, so that they meet often.
type chance struct{ *rand.Rand }

func (c chance) of(words ...string) string { return words[c.IntN(len(words))] }

var (
	users         = []string{"admin", "ann", "bob", "web", "", "a"}
	classesOf     = []string{"public", "internal", "confidential", "", "secret-1"}
	hosts         = []string{"pay.example.com", "example.com", "a.pay.example.com", "x.org", "", "com"}
	paths         = []string{"/", "/v1/users", "/v1/users/7", "/v1", "", "/admin/x"}
	someAddresses = []string{"10.1.2.3", "10.1.2.4", "192.168.0.1", "2001:db8::1", "::1"}
	someNetworks  = []string{"10.0.0.0/8", "10.1.2.0/24", "0.0.0.0/0", "2001:db8::/32", "192.168.0.1/32", "::/0"}
)

var wordsOf = map[string][]string{
	"user": users, "data": classesOf, "host": hosts, "path": paths, "operation": {"read", "write", "delete"},
	"method": {"GET", "POST", ""}, "service": {"pay.Pay", "users.Users", ""}, "workload": {"web", "db"}, "image": {"nginx:1", "redis:7"},
	"containerd_namespace": {"default", "k8s.io"}, "protocol": {"http", "tls", "opaque", "dns"}, "user_proof": {"claim", "token", "workload"},
	"host_proof": {"claim", "answer", ""}, "container": {"c1", "c2"}, "process.executable": {"/usr/bin/curl", "/bin/sh", ""},
}

var textFields = []string{
	"user", "data", "host", "path", "operation", "method", "service", "workload", "image", "containerd_namespace", "protocol", "user_proof", "container",
	"process.executable", "user", "host", "data", "path", "host", "host_proof",
}

func (c chance) quoted(f string) string { return fmt.Sprintf("%q", c.of(wordsOf[f]...)) }

// part is a prefix, suffix or middle of a word.
func (c chance) part(f string) string {
	w := c.of(wordsOf[f]...)
	i := c.IntN(len(w) + 1)
	j := i + c.IntN(len(w)-i+1)
	switch c.IntN(3) {
	case 0:
		i = 0
	case 1:
		j = len(w)
	}
	return fmt.Sprintf("%q", w[i:j])
}

func (c chance) atom() string {
	f := c.of(textFields...)
	number := c.of("port", "risk", "load", "process.pid")
	value := c.of("0", "1", "50", "80", "443", "100")
	switch c.IntN(26) {
	case 0, 1, 2, 3, 4:
		return f + " == " + c.quoted(f)
	case 5:
		return c.quoted(f) + " == " + f
	case 6, 7:
		return f + " != " + c.quoted(f)
	case 8, 9:
		return fmt.Sprintf("%s in [%s, %s]", f, c.quoted(f), c.quoted(f))
	case 10, 11:
		return f + ".startsWith(" + c.part(f) + ")"
	case 12, 13:
		return f + ".endsWith(" + c.part(f) + ")"
	case 14:
		return f + ".contains(" + c.part(f) + ")"
	case 15:
		return f + `.matches("^[a-m/]+` + c.of("$", "", "[0-9]") + `")`
	case 16, 17:
		return number + c.of(" == ", " != ", " < ", " > ", " <= ", " >= ") + value
	case 18:
		return value + c.of(" == ", " != ", " < ", " > ", " <= ", " >= ") + number
	case 19:
		return fmt.Sprintf("destination.within(%q)", c.of(someNetworks...))
	case 20:
		return fmt.Sprintf("destination %s %q", c.of("==", "!="), c.of(someAddresses...))
	case 21:
		return fmt.Sprintf("destination in [%q, %q]", c.of(someAddresses...), c.of("", "nonsense", "10.1.2.3"))
	case 22: // what only CEL knows
		return c.of("size(user) > 3", "host + path == 'example.com/'", "user == data", `["a", "b"].exists(x, user.startsWith(x))`,
			"risk + load > 100", "now.getHours() < 12", `now > timestamp("2026-01-01T00:00:00Z")`, "now.getSeconds() % 2 == 0",
			`user < "b"`, `destination.startsWith("10.")`, "[80, 443].exists(p, p == port)", "(risk > 50 ? user : host) == 'admin'")
	case 23: // what fails
		return c.of("1 / load > 0", "100 / risk == 1", "int(user) == 1", `timestamp(path) < now`)
	case 24:
		return c.of("true", "false")
	}
	return fmt.Sprintf("(%s ? %s : %s)", f+" == "+c.quoted(f), "risk > 10", "true")
}

func (c chance) condition(depth int) string {
	if depth == 0 || c.IntN(4) == 0 {
		return c.atom()
	}
	parts := make([]string, 2+c.IntN(2))
	for i := range parts {
		parts[i] = c.condition(depth - 1)
	}
	joined := strings.Join(parts, c.of(" && ", " || ", " && "))
	return c.of("(", "!(", "(") + joined + ")"
}

func (c chance) profile() flow.Profile {
	p := flow.Profile{Encryption: flow.Encryption(c.IntN(3)), Dedicated: c.IntN(3) == 0, QoS: c.of("", flow.QoSBulk, flow.QoSRealtime)}
	if c.IntN(8) == 0 {
		p.Deny = true
	}
	if c.IntN(4) == 0 {
		p.Endpoint = c.of("a", "b")
	}
	if c.IntN(3) == 0 {
		p.Rates = []flow.Rate{{Bytes: int64(1 + c.IntN(3)), Requests: int64(c.IntN(3)), Scope: flow.Scope(c.of("connection", "user", "rule")), Rule: c.of("r", "s")}}
	}
	return p
}

func (c chance) rules(n int) []Rule {
	rules := make([]Rule, n)
	for i := range rules {
		rules[i] = Rule{Name: fmt.Sprintf("rule-%d", i), Source: fmt.Sprintf("f.toml:%d", i), When: c.condition(c.IntN(3)), Profile: c.profile()}
	}
	return rules
}

func (c chance) context() flow.Context {
	word := func(f string) string { return c.of(wordsOf[f]...) }
	x := flow.Context{
		Namespace: word("containerd_namespace"), Workload: word("workload"), Image: word("image"), Container: word("container"), Risk: c.IntN(101),
		Protocol: flow.Protocol(word("protocol")), User: word("user"), UserProof: flow.Proof(word("user_proof")), Data: word("data"),
		Operation: word("operation"), Host: word("host"), HostProof: flow.Proof(word("host_proof")), Method: word("method"), Path: word("path"), Service: word("service"),
		Process: &flow.Process{Executable: word("process.executable"), PID: c.IntN(3)},
	}
	if c.IntN(5) == 0 {
		x.Host, x.Names = "", []string{word("host"), word("host"), word("host")}
	}
	if c.IntN(10) > 0 {
		x.Destination = netip.AddrPortFrom(netip.MustParseAddr(c.of(someAddresses...)), uint16([]int{80, 443, 0, 5432}[c.IntN(4)]))
	}
	return x
}

func (c chance) moment() Moment {
	return Moment{Now: time.Date(2025+c.IntN(2), 1, 1, c.IntN(24), c.IntN(60), c.IntN(60), c.IntN(1e9), time.UTC), Load: c.IntN(101)}
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func newChance(seed uint64) chance { return chance{rand.New(rand.NewPCG(seed, 0))} }
