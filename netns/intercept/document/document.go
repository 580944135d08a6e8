// Package document is how an interceptor is told to understand requests, as JSON: what a shim writes and an agent reads. It
// is plain, since a shim must not link an interceptor. Keys and certificates are in it, in PEM: who intercepts can read no file.
package document

import (
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Document is the whole of it.
type Document struct {
	Base        flow.Context `json:"base"`           // what is known of every request beforehand
	Data        string       `json:"data,omitempty"` // the workload's class of sensitivity
	Tokens      *Tokens      `json:"tokens,omitempty"`
	UserHeaders []string     `json:"user_headers,omitempty"`
	DataHeaders []string     `json:"data_headers,omitempty"`
	Mappings    []Mapping    `json:"mappings,omitempty"`
	Originate   []TLSHost    `json:"originate,omitempty"`
	Roots       string       `json:"roots,omitempty"` // certificates that servers' are checked by, where a TLSHost has none
	ServerFirst []uint16     `json:"server_first,omitempty"`
	Limits      *Limits      `json:"limits,omitempty"`
	// DecideWithin is for who decides beside the interceptor: what is not known by then is denied. 0: not said.
	DecideWithin time.Duration `json:"decide_within,omitempty"`
}

// Tokens say which tokens are valid, and where they stand.
type Tokens struct {
	Headers  []string   `json:"headers"`
	Keys     []TokenKey `json:"keys"`
	Issuer   string     `json:"issuer,omitempty"`
	Audience string     `json:"audience,omitempty"`
}

// TokenKey is a public key that tokens are signed with.
type TokenKey struct {
	ID  string `json:"id,omitempty"`
	PEM string `json:"pem"`
}

// TLSHost is a host to which plain HTTP goes on as TLS.
type TLSHost struct {
	Host  string `json:"host"`
	Port  uint16 `json:"port,omitempty"` // 0: 443
	Roots string `json:"roots,omitempty"`
}

// Limits bound an interceptor. Zero fields take the default.
type Limits struct {
	// Connections is how many clients may have open at once; those beyond it are reset. Default 4096.
	Connections int `json:"connections,omitempty"`
	// FirstByte is how long a client that says nothing is waited for before the server may speak. Default 100 ms.
	FirstByte time.Duration `json:"first_byte,omitempty"`
	// Head is how long the head of a request or a ClientHello may take from its first byte. Default 30 s.
	Head time.Duration `json:"head,omitempty"`
	// Dial is how long a connection to the server may take. Default 10 s.
	Dial time.Duration `json:"dial,omitempty"`
}

// Mapping says what requests to a host mean. Empty fields match everything, or set nothing.
type Mapping struct {
	Host   string `json:"host,omitempty"`   // in lower case; "*.example.com" is every host below example.com
	Path   string `json:"path,omitempty"`   // the beginning of the path
	Method string `json:"method,omitempty"` // in upper case

	Operation string `json:"operation,omitempty"`
	Data      string `json:"data,omitempty"`
}
