// Package egress is what shim and agent say to each other about outbound connections, as JSON over the agent's channel: how requests
// are understood, and what the agent asks for. It is plain: a shim must not link an interceptor, nor an agent a configuration.
package egress

import (
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Settings say how an interceptor understands requests.
type Settings struct {
	Base        flow.Context `json:"base"`           // what is known of every request beforehand
	Data        string       `json:"data,omitempty"` // the workload's class of sensitivity
	UserHeaders []string     `json:"user_headers,omitempty"`
	DataHeaders []string     `json:"data_headers,omitempty"`
	Mappings    []Mapping    `json:"mappings,omitempty"`
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
