// Package egress is what an agent asks its shim about ways out, as JSON over the agent's channel. It is plain: neither must link what the
// other is made of.
package egress

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// DecideQuestion asks what becomes of a request. The answer is a flow.Decision.
type DecideQuestion struct {
	flow.Context
	Token flow.Credential `json:"token,omitempty"` // Context.Credential
}

// WayQuestion asks for a tunnel that does what a profile asks.
type WayQuestion struct {
	Profile flow.Profile `json:"profile"`
	User    string       `json:"user,omitempty"` // whose a dedicated one is
	// Container is which of a pod asks; empty: there is only one, or it is not known.
	Container string `json:"container,omitempty"`
}

// Way is the answer: what leads a socket there.
type Way struct {
	Tunnel string        `json:"tunnel"`
	Mark   uint32        `json:"mark"`
	Device string        `json:"device,omitempty"` // "" for the container's own uplink
	Valid  time.Duration `json:"valid"`            // ask again after that
	// Receipts says that the far end counts connections, too.
	Receipts bool `json:"receipts,omitempty"`
}

// ProcessQuestion asks who opened a TCP connection, by its ends as they were before it was redirected. The answer is a flow.Process.
type ProcessQuestion struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// ContainerQuestion asks whose a cgroup is, by its id in the v2 hierarchy: one of the containers that share the agent's network namespace.
type ContainerQuestion struct {
	Cgroup uint64 `json:"cgroup"`
}

// ContainerAnswer is the container's id.
type ContainerAnswer struct {
	Container string `json:"container"`
}

// Contacts tells of connections that were let out and made since the last time.
type Contacts struct {
	// Container is which of a pod made them; empty: there is only one, or it is not known.
	Container string            `json:"container,omitempty"`
	Names     map[string]uint64 `json:"names"` // such as "tcp/www.example.com:443"
}
