package intercept

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/hello"
	"forefend.dev/forefend/netns/intercept/http1"
)

// base is what is known of a flow before its first byte: user and data are the workload's, and since nobody sees what it
// does it writes.
func (s *Settings) base(p flow.Protocol, to netip.AddrPort) flow.Context {
	c := s.Base
	c.Version, c.Protocol, c.Destination = flow.Version, p, to
	c.User, c.UserProof = c.Workload, flow.Workload
	c.Data, c.Operation = s.Data, flow.Write
	return c
}

// ofHello is the context of a TLS connection.
func (s *Settings) ofHello(h hello.Hello, to netip.AddrPort) flow.Context {
	c := s.base(flow.TLS, to)
	c.Host = h.Name
	s.prove(&c)
	s.mean(&c)
	c.Operation = flow.Write // whatever a mapping says: nobody sees what it does
	return c
}

// ofAddress is the context of a connection of which nothing can be seen.
func (s *Settings) ofAddress(to netip.AddrPort) flow.Context {
	c := s.base(flow.Opaque, to)
	s.prove(&c)
	return c
}

// Bounds of what a Context holds, in bytes: it is kept for each connection.
const (
	maxPath = 8 << 10
	maxUser = 256
	maxData = 64
)

// memo keeps the last texts of a connection, which are mostly those of its next request too.
type memo struct {
	host, path, user, data, token string
	scratch                       []byte
}

// intern returns b as a string, the last one if it is the same.
func intern(last *string, b []byte) string {
	if string(b) != *last { // compared without a copy
		*last = string(b)
	}
	return *last
}

// ofRequest is the context of an HTTP/1 request. The error is an *http1.Fault.
func (s *Settings) ofRequest(h *http1.Head, to netip.AddrPort, m *memo) (flow.Context, error) {
	host, _, err := h.Authority()
	if err != nil {
		return s.base(flow.HTTP, to), err
	}
	return s.of(asked{method: h.Method, host: host, path: h.AppendPath(m.scratch[:0]), fields: h.Fields()}, to, m)
}

// asked is what a request asks for, in whichever version of HTTP.
type asked struct {
	method []byte
	host   []byte // as http1.SplitHost returns it
	path   []byte // in the form that rules see; it may be the memo's scratch
	grpc   bool
	fields []http1.Field
}

// of is the context of a request. The error is an *http1.Fault.
func (s *Settings) of(a asked, to netip.AddrPort, m *memo) (flow.Context, error) {
	c := s.base(flow.HTTP, to)
	if m.scratch = a.path; len(a.path) > maxPath {
		return c, &http1.Fault{Kind: http1.TooLarge}
	}
	c.Path = intern(&m.path, a.path)
	m.scratch = appendLower(m.scratch[:0], a.host)
	c.Host = intern(&m.host, m.scratch)
	c.Method = method(a.method)
	c.Operation = operation(c.Method)
	if a.grpc {
		c.Service, c.Operation = ofPath(c.Path)
	}
	s.prove(&c)
	s.mean(&c)
	if err := s.identify(&c, a.fields, m); err != nil {
		return c, err
	}
	return c, s.classify(&c, a.fields, m)
}

// identify finds the user: of a token that is valid, else the one a header claims, else the workload.
func (s *Settings) identify(c *flow.Context, h []http1.Field, m *memo) error {
	if s.Tokens != nil {
		value, err := header(h, s.TokenHeaders)
		if err != nil {
			return err
		}
		if len(value) > 7 && http1.Is(value[:7], "bearer ") {
			value = bytes.TrimLeft(value[7:], " ")
		}
		if user, ok := s.Tokens.User(time.Now(), value); ok {
			c.User, c.UserProof, c.Credential = user, flow.Verified, flow.Credential(intern(&m.token, value))
			return nil
		}
	}
	value, err := header(h, s.UserHeaders)
	switch {
	case err != nil:
		return err
	case len(value) > maxUser:
		return &http1.Fault{Kind: http1.BadValue}
	case len(value) > 0:
		c.User, c.UserProof = intern(&m.user, value), flow.Claimed
	}
	return nil
}

// classify finds the class of data where a header says it, whatever a mapping does.
func (s *Settings) classify(c *flow.Context, h []http1.Field, m *memo) error {
	value, err := header(h, s.DataHeaders)
	if err != nil {
		return err
	}
	if len(value) > maxData {
		return &http1.Fault{Kind: http1.BadValue}
	}
	if len(value) > 0 {
		m.scratch = appendLower(m.scratch[:0], value)
		c.Data = intern(&m.data, m.scratch)
	}
	return nil
}

// header returns the value of the first of these fields that is there. One that is there twice with different values has
// no single meaning.
func header(fields []http1.Field, names []string) ([]byte, error) {
	for _, name := range names {
		var value []byte
		found := false
		for _, f := range fields {
			if !http1.Is(f.Name, name) {
				continue
			}
			if found && !bytes.Equal(f.Value, value) {
				return nil, &http1.Fault{Kind: http1.BadValue}
			}
			value, found = f.Value, true
		}
		if found {
			return value, nil
		}
	}
	return nil, nil
}

// mapped is what the first mapping that matches and says something says.
func (s *Settings) mapped(c *flow.Context, of func(*Mapping) string) string {
	for i := range s.Mappings {
		m := &s.Mappings[i]
		if value := of(m); value != "" && matchAny(m.Host, c) && strings.HasPrefix(c.Path, m.Path) &&
			(m.Method == "" || m.Method == c.Method) {
			return value
		}
	}
	return ""
}

func matchHost(pattern, host string) bool {
	if below, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(below) && strings.HasSuffix(host, below)
	}
	return pattern == "" || pattern == host
}

// originate tells whether, and how, plain HTTP to the host goes on as TLS.
func (s *Settings) originate(host string) *Origination {
	for i := range s.Originate {
		if matchHost(s.Originate[i].Host, host) {
			return &s.Originate[i]
		}
	}
	return nil
}

// methods that are registered and common, so that no string is made for them.
var methods = []string{"GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"}

// method is the method in upper case, as rules see it. The server sees it as it was written.
func method(b []byte) string {
	for _, m := range methods {
		if string(b) == m {
			return m
		}
	}
	return strings.ToUpper(string(b))
}

// written is a method as the server sees it, which knows upper and lower case apart: "head" has an answer with a body.
func written(b []byte, upper string) string {
	if string(b) == upper {
		return upper
	}
	return string(b)
}

// operation is what a method does where no mapping says otherwise: RFC 9110, 9.2.1, and those of WebDAV that only look.
func operation(method string) string {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY":
		return flow.Read
	}
	return flow.Write
}

func appendLower(dst, b []byte) []byte {
	for _, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
