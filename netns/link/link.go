// Package link is what tunnels of all kinds are to a container's network namespace: a device that is made there by somebody outside,
// and tells how it fares. Kinds are packages of their own (wg, openvpn); package egress leads marked packets to their devices, and
// package tunnel knows which kind a tunnel is of.
package link

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/enter"
)

// Device is a tunnel's end in a namespace. Its methods may be called from any goroutine.
type Device interface {
	// Stats reads how it fares.
	Stats() (Stats, error)
	// Move has the device send to another endpoint of the same gateway, or to the same one, and begin anew with it.
	Move(netip.AddrPort) error
	// Close ends the device, in the namespace as well. Once more it does nothing.
	Close() error
	// Kind is whose work it is, in a word: "kernel", "user" or "openvpn".
	Kind() string
}

// Stats is how a device fares.
type Stats struct {
	Handshake time.Time // the last one; zero: none yet
	Received  uint64    // bytes
	Sent      uint64

	// Fault says why nothing passes, where the device knows; "" where it may pass. Ended: for ever, the device is to be closed.
	Fault string
	Ended bool
}

// Plan is a device that is to be in a namespace, with all that had to be waited for done.
type Plan struct {
	Addresses []netip.Prefix
	MTU       int   // of what goes through, in bytes
	Rate      int64 // bytes a second that may go into the device; 0: no limit

	// Make makes the device in a namespace, under a name and an interface index: down, and without addresses. An index that is taken, or
	// 0, leaves the choice to the kernel.
	Make func(ns *enter.Namespace, name string, index int) (Device, error)
	// Drop gives the plan up where Make was not called. nil: there is nothing to give up.
	Drop func()
}

// Close is Drop, where there is one.
func (p Plan) Close() {
	if p.Drop != nil {
		p.Drop()
	}
}
