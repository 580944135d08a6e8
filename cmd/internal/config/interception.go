package config

import (
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
	ServerFirst  []int         // ports on which servers speak first, beside the well-known ones
	Tokens       Tokens
	Requests     []RequestMeaning
	TLS          []TLSHost
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
		UserHeaders: []string{"x-forefend-user"}, DataHeaders: []string{"x-forefend-data"}, Connections: 4096, DecideWithin: 50 * time.Millisecond,
		Tokens: Tokens{Headers: []string{"authorization"}},
	}
}

// Bounds of the lists: each item is looked at for each request.
const (
	maxHeaders = 8
	maxMeaning = 1000
)

// readInterception reads the keys of [egress] that are about requests.
func (t *table) readInterception(i *Interception) {
	t.headers("user_headers", &i.UserHeaders)
	t.headers("data_headers", &i.DataHeaders)
	t.integer("connections", &i.Connections, 1, 16384)
	t.duration("decide_within", &i.DecideWithin, time.Millisecond, 10*time.Second)
	t.ports("server_first", &i.ServerFirst)

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
	name := strings.TrimPrefix(s, "*.")
	if name == "" || len(s) > 253 || s != strings.ToLower(s) || strings.ContainsAny(name, "*/: \t\"") || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
		t.problem(t.at(key), `write a name in lower case, or a pattern such as "*.example.com"`, "%.80q is not a host", s)
		return
	}
	*into = s
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
