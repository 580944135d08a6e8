// Package egress is what shim and agent say to each other about outbound connections, as JSON over the agent's channel: how requests
// are understood, and what the agent asks for. It is plain: a shim must not link an interceptor, nor an agent a configuration.
package egress

import (
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Settings say how an interceptor understands requests: the JSON form of intercept.Document.
type Settings struct {
	Base        flow.Context `json:"base"`           // what is known of every request beforehand
	Data        string       `json:"data,omitempty"` // the workload's class of sensitivity
	Tokens      *Tokens      `json:"tokens,omitempty"`
	UserHeaders []string     `json:"user_headers,omitempty"`
	DataHeaders []string     `json:"data_headers,omitempty"`
	Mappings    []Mapping    `json:"mappings,omitempty"`
	Originate   []TLSHost    `json:"originate,omitempty"`
	Roots       string       `json:"roots,omitempty"` // certificates in PEM, where a TLSHost has none of its own
	ServerFirst []uint16     `json:"server_first,omitempty"`
	Limits      *Limits      `json:"limits,omitempty"`
	// DecideWithin is how long the agent waits for a decision before it denies.
	DecideWithin time.Duration `json:"decide_within,omitempty"`
}

// Tokens say which tokens are valid.
type Tokens struct {
	Headers  []string   `json:"headers"`
	Keys     []TokenKey `json:"keys"`
	Issuer   string     `json:"issuer,omitempty"`
	Audience string     `json:"audience,omitempty"`
}

// TokenKey is a public key in PEM.
type TokenKey struct {
	ID  string `json:"id,omitempty"`
	PEM string `json:"pem"`
}

// TLSHost is a host to which plain HTTP goes on as TLS.
type TLSHost struct {
	Host  string `json:"host"`
	Port  uint16 `json:"port,omitempty"`
	Roots string `json:"roots,omitempty"`
}

// Limits are those of one container.
type Limits struct {
	Connections int `json:"connections,omitempty"`
}

// Mapping says what requests to a host mean. Empty fields match everything, or set nothing.
type Mapping struct {
	Host      string `json:"host,omitempty"`
	Path      string `json:"path,omitempty"`
	Method    string `json:"method,omitempty"`
	Operation string `json:"operation,omitempty"`
	Data      string `json:"data,omitempty"`
}

// WayQuestion asks for a tunnel that does what a profile asks.
type WayQuestion struct {
	Profile flow.Profile `json:"profile"`
	User    string       `json:"user,omitempty"` // whose a dedicated one is
}

// Way is the answer: what leads a socket there.
type Way struct {
	Tunnel string        `json:"tunnel"`
	Mark   uint32        `json:"mark"`
	Device string        `json:"device,omitempty"` // "" for the container's own uplink
	Valid  time.Duration `json:"valid"`            // ask again after that
}
