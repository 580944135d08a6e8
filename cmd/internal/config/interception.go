package config

import (
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Interception is how outbound requests are understood: where their headers say who asks and how sensitive the data is, and
// what requests to a host mean.
type Interception struct {
	UserHeaders []string // lower case; what they say is a claim
	DataHeaders []string // lower case
	Connections int      // of one container, at once

	DecideWithin time.Duration // else a request is denied
	Verify       time.Duration // from one comparison with gateways' receipts to the next; 0: none
	ServerFirst  []int         // ports on which servers speak first, beside the well-known ones
	Names        Names
	Tokens       Tokens
	Requests     []RequestMeaning
	TLS          []TLSHost
}

// Names is how names are looked up.
type Names struct {
	Resolver  netip.AddrPort // asked whatever name server an application asks; invalid: the one that it asks
	Resolvers []netip.Addr   // whose answers are believed, too
	Services  []string       // hosts that answer queries over HTTPS, or patterns of them
	ECH       bool           // answers may have keys by which clients hide hosts
	Queries   int            // of one container, a second
}

// Tokens say which bearer tokens prove a user. Without keys none does.
type Tokens struct {
	Headers  []string // lower case
	Issuer   string
	Audience string
	Keys     []TokenKey
}

// TokenKey is a public key in a PEM file.
type TokenKey struct {
	ID   string // the token's kid; "": any
	File string
}

// RequestMeaning says what requests to a host are; an empty field matches all, or says nothing.
type RequestMeaning struct {
	Host, Path, Method string
	Operation, Data    string
}

// TLSHost is a host to which plain HTTP goes on as TLS.
type TLSHost struct {
	Host string
	Port int
	CA   string // file of certificates; "": the system's
}

func defaultInterception() Interception {
	return Interception{
		UserHeaders: []string{"x-forefend-user"}, DataHeaders: []string{"x-forefend-data"}, Connections: 4096, DecideWithin: 50 * time.Millisecond, Verify: 30 * time.Second,
		Names: Names{Queries: 5000, Services: []string{
			"dns.google", "dns64.dns.google", "cloudflare-dns.com", "*.cloudflare-dns.com", "one.one.one.one", "dns.quad9.net", "*.quad9.net", "doh.opendns.com",
			"dns.adguard-dns.com", "*.adguard-dns.com", "doh.cleanbrowsing.org", "dns.nextdns.io", "*.dns.nextdns.io", "dns.mullvad.net", "doh.libredns.gr",
		}},
		Tokens: Tokens{Headers: []string{"authorization"}},
	}
}

// Bounds of the lists: each item is looked at for each request.
const (
	maxHeaders = 8
	maxMeaning = 1000
	maxNames   = 256
)

// readInterception reads the keys of [egress] that are about requests.
func (t *table) readInterception(i *Interception) {
	t.headers("user_headers", &i.UserHeaders)
	t.headers("data_headers", &i.DataHeaders)
	t.integer("connections", &i.Connections, 1, 16384)
	t.duration("decide_within", &i.DecideWithin, time.Millisecond, 10*time.Second)
	t.duration("verify", &i.Verify, 0, time.Hour)
	t.ports("server_first", &i.ServerFirst)

	t.readNames(&i.Names)
	tokens := t.sub("tokens")
	tokens.headers("headers", &i.Tokens.Headers)
	tokens.text("issuer", &i.Tokens.Issuer)
	tokens.text("audience", &i.Tokens.Audience)
	for _, k := range tokens.subs("key") {
		var key TokenKey
		k.text("id", &key.ID)
		k.file("file", &key.File, "/etc/forefend/tokens.pem")
		if key.File == "" {
			k.problem(k.at("file"), `write the path of a PEM file with a public key`, "is missing")
		}
		k.rest()
		i.Tokens.Keys = append(i.Tokens.Keys, key)
	}
	tokens.rest()

	for _, m := range t.subs("request") {
		var r RequestMeaning
		m.host("host", &r.Host)
		if m.text("path", &r.Path) && !strings.HasPrefix(r.Path, "/") {
			m.problem(m.at("path"), `write the beginning of a path, such as "/search"`, "%.60q does not begin with a slash", r.Path)
		}
		if m.text("method", &r.Method) && r.Method != strings.ToUpper(r.Method) {
			m.problem(m.at("method"), "write it in upper case", "%.60q is no method", r.Method)
		}
		m.text("operation", &r.Operation)
		m.text("data", &r.Data)
		if r.Operation == "" && r.Data == "" {
			m.problem(m.path, `write operation = "`+flow.Read+`", or data = "…", or both`, "says nothing of the request")
		}
		m.rest()
		if i.Requests = append(i.Requests, r); len(i.Requests) == maxMeaning+1 {
			m.problem(m.path, "write patterns of hosts", "is one of more than %d", maxMeaning)
		}
	}

	for _, h := range t.subs("tls") {
		host := TLSHost{Port: 443}
		h.host("host", &host.Host)
		if host.Host == "" {
			h.problem(h.at("host"), `write a name, or a pattern such as "*.example.com"`, "is missing")
		}
		h.integer("port", &host.Port, 1, 65535)
		h.file("ca", &host.CA, "/etc/ssl/certs/ca-certificates.crt")
		h.rest()
		i.TLS = append(i.TLS, host)
	}
}

// readNames reads the keys that are about names.
func (t *table) readNames(n *Names) {
	var s string
	if t.text("resolver", &s) && s != "" {
		a, err := netip.ParseAddr(s)
		if n.Resolver = netip.AddrPortFrom(a, 53); err != nil {
			if n.Resolver, err = netip.ParseAddrPort(s); err != nil || n.Resolver.Port() == 0 {
				t.problem(t.at("resolver"), `write an address, as "10.0.0.2", or one with a port, as "10.0.0.2:5353"`, "%.60q is neither", s)
			}
		}
	}
	t.strings("resolvers", func(path []string, s string) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			t.problem(path, `write an address, as "10.0.0.2"`, "%.60q is none", s)
			return
		}
		n.Resolvers = append(n.Resolvers, a.Unmap())
	})
	if _, given := t.values["resolver_hosts"]; given {
		n.Services = nil
	}
	t.strings("resolver_hosts", func(path []string, s string) {
		if !validHost(s) {
			t.problem(path, `write a name in lower case, or a pattern such as "*.example.com"`, "%.80q is not a host", s)
			return
		}
		n.Services = append(n.Services, s)
	})
	for key, many := range map[string]int{"resolvers": len(n.Resolvers), "resolver_hosts": len(n.Services)} {
		if many > maxNames {
			t.problem(t.at(key), "write the few that there are", "has more than %d", maxNames)
		}
	}
	t.flag("ech", &n.ECH)
	t.integer("queries", &n.Queries, 1, 1_000_000)
}

// headers reads names of HTTP header fields.
func (t *table) headers(key string, into *[]string) {
	var names []string
	t.strings(key, func(path []string, s string) {
		if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			t.problem(path, `write a name such as "X-User"`, "%.80q is not the name of a header", s)
			return
		}
		names = append(names, strings.ToLower(textproto.CanonicalMIMEHeaderKey(s)))
	})
	if _, ok := t.values[key]; !ok {
		return
	}
	if len(names) > maxHeaders {
		t.problem(t.at(key), "write the few that clients use", "has more than %d headers", maxHeaders)
		return
	}
	*into = names
}

// host reads a host's name, or a pattern of those below one.
func (t *table) host(key string, into *string) {
	var s string
	if !t.text(key, &s) {
		return
	}
	if !validHost(s) {
		t.problem(t.at(key), `write a name in lower case, or a pattern such as "*.example.com"`, "%.80q is not a host", s)
		return
	}
	*into = s
}

func validHost(s string) bool {
	name := strings.TrimPrefix(s, "*.")
	return name != "" && len(s) <= 253 && s == strings.ToLower(s) && !strings.ContainsAny(name, "*/: \t\"") && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".")
}

func (t *table) ports(key string, into *[]int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	list, _ := v.([]any)
	var ports []int
	for i, item := range list {
		n, ok := item.(int64)
		if !ok || n < 1 || n > 65535 {
			t.problem(append(t.at(key), strconv.Itoa(i)), "write a whole number from 1 to 65535", "%s is not a port", shown(item))
			continue
		}
		ports = append(ports, int(n))
	}
	if _, isList := v.([]any); !isList {
		t.problem(t.at(key), "write a list such as [2525, 6667]", "is %s, not a list", kind(v))
	}
	*into = ports
}
