// Package egress is what an agent asks its shim about ways out, as JSON over the agent's channel. It is plain: neither must link what the
// other is made of.
package egress

import (
	"time"

	"forefend.dev/forefend/netns/flow"
)

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
