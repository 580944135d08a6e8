// Package provision is what a node and a gateway (`forefend gateway`) say to one another: the messages, their bounds, and the node's
// client. It is JSON over HTTP/2 with TLS 1.3, where each side shows a certificate (docs/gateway.md).
//
// A node's private keys are no part of any message. Every message has the version, a reader refuses what it does not know, and reads
// no more than MaxMessage bytes.
//
// Not for: who gets what (package gateway), and devices (package wg).
package provision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/wg"
)

// Version of the messages.
const Version = 1

// Bounds of messages.
const (
	MaxMessage = 32 << 10 // bytes, of a request; of an answer eight times that
	MaxRenewed = 256      // leases of one Renew
	maxName    = 64       // bytes, of classes

	MaxEndpoints = 8   // of a gateway
	MaxEndpoint  = 300 // bytes of one
)

// Where things are asked for.
const (
	PathLeases = "/v1/leases"
	PathRenew  = "/v1/leases/renew"
	PathStats  = "/v1/stats"
)

// Allocate asks for a peer. Asked again with the same key, a gateway answers with the same lease.
type Allocate struct {
	Version   int    `json:"version"`
	PublicKey string `json:"public_key"`          // the node's, of this lease alone
	Preshared bool   `json:"preshared,omitempty"` // a pre-shared key is wanted
	Class     string `json:"class,omitempty"`     // of rates, as the gateway names it; empty: the gateway's first for this node
}

// Rekey has a lease go on with another key, and the same addresses.
type Rekey struct {
	Version   int    `json:"version"`
	PublicKey string `json:"public_key"`
	Preshared bool   `json:"preshared,omitempty"`
}

// Renew keeps leases for another term.
type Renew struct {
	Version int      `json:"version"`
	Leases  []string `json:"leases"` // ids
}

// Server is how the gateway is reached by WireGuard now. It may change with any answer.
type Server struct {
	PublicKey string   `json:"public_key"`
	Endpoints []string `json:"endpoints"` // HOST:PORT
	MTU       int      `json:"mtu"`       // of what goes through, in bytes
}

// Lease is a peer of the gateway in a node's hands.
type Lease struct {
	ID           string         `json:"id"` // 32 hexadecimal digits
	PublicKey    string         `json:"public_key"`
	PresharedKey string         `json:"preshared_key,omitempty"` // in the answers to Allocate and Rekey only
	Addresses    []netip.Prefix `json:"addresses"`
	Class        string         `json:"class,omitempty"`
	Rate         int64          `json:"rate,omitempty"` // of the class, bytes per second each way; 0: none
	Seconds      int            `json:"seconds"`        // that it is good for, from the answer on
}

// Term is how long the lease is good for.
func (l *Lease) Term() time.Duration { return time.Duration(l.Seconds) * time.Second }

// Granted answers Allocate and Rekey.
type Granted struct {
	Version int    `json:"version"`
	Server  Server `json:"server"`
	Lease   Lease  `json:"lease"`
}

// Renewed answers Renew.
type Renewed struct {
	Version int      `json:"version"`
	Server  Server   `json:"server"`
	Seconds int      `json:"seconds"`        // that the leases are good for, but those of Gone
	Gone    []string `json:"gone,omitempty"` // ids that the gateway does not know, as this node's
}

// Stats tells a node about its leases.
type Stats struct {
	Version int         `json:"version"`
	Leases  []LeaseStat `json:"leases"`
	Most    int         `json:"most"` // that this node may have
}

// LeaseStat is how one fares.
type LeaseStat struct {
	ID        string         `json:"id"`
	Addresses []netip.Prefix `json:"addresses"`
	Class     string         `json:"class,omitempty"`
	Seconds   int            `json:"seconds"`             // left
	Handshake int64          `json:"handshake,omitempty"` // seconds ago, -1: never
	Received  uint64         `json:"received"`            // bytes from the node
	Sent      uint64         `json:"sent"`
}

// Failure is the answer to what cannot be done.
type Failure struct {
	Version int    `json:"version"`
	Error   string `json:"error"`
}

// Decode reads one message, and nothing after it.
func Decode(r io.Reader, most int64, into any) error {
	limited := &io.LimitedReader{R: r, N: most + 1}
	d := json.NewDecoder(limited)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is something after the message")
		}
	}
	switch {
	case limited.N <= 0:
		return fmt.Errorf("a message has at most %d bytes", most)
	case errors.Is(err, io.EOF):
		return errors.New("there is no message")
	case err != nil:
		return fmt.Errorf("not a message of version %d: %w", Version, err)
	}
	return nil
}

// Check tells what is wrong with a request.
func (a *Allocate) Check() error {
	if len(a.Class) > maxName {
		return fmt.Errorf("the name of a class has at most %d bytes", maxName)
	}
	return checkKey(a.Version, a.PublicKey)
}

// Check tells what is wrong with a request.
func (r *Rekey) Check() error { return checkKey(r.Version, r.PublicKey) }

// Check tells what is wrong with a request.
func (r *Renew) Check() error {
	if err := checkVersion(r.Version); err != nil {
		return err
	}
	if n := len(r.Leases); n == 0 || n > MaxRenewed {
		return fmt.Errorf("%d leases to be renewed, one request is for 1 to %d", n, MaxRenewed)
	}
	for _, id := range r.Leases {
		if !IsID(id) {
			return fmt.Errorf("%.40q is not the id of a lease", id)
		}
	}
	return nil
}

func checkVersion(v int) error {
	if v != Version {
		return fmt.Errorf("version %d, this side speaks version %d", v, Version)
	}
	return nil
}

func checkKey(version int, key string) error {
	if err := checkVersion(version); err != nil {
		return err
	}
	if _, err := wg.ParseKey(key); err != nil {
		return fmt.Errorf("public_key: %w", err)
	}
	return nil
}

// IsID tells whether that can be the id of a lease.
func IsID(id string) bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Check tells what is wrong with what a gateway granted: a node does not let a gateway choose just any address or size.
func (g *Granted) Check(want string) error {
	if err := g.Server.check(g.Version); err != nil {
		return err
	}
	l := g.Lease
	switch {
	case !IsID(l.ID):
		return fmt.Errorf("%.40q is not the id of a lease", l.ID)
	case l.PublicKey != want:
		return errors.New("the lease is of another key")
	case l.Seconds < 1 || l.Seconds > 7*24*3600:
		return fmt.Errorf("a lease for %d seconds", l.Seconds)
	case len(l.Addresses) == 0 || len(l.Addresses) > 2:
		return fmt.Errorf("a lease with %d addresses, it has one or two", len(l.Addresses))
	}
	for _, p := range l.Addresses {
		if a := p.Addr(); !p.IsSingleIP() || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("%s is no address of a lease", p)
		}
	}
	if l.PresharedKey != "" {
		if _, err := wg.ParseKey(l.PresharedKey); err != nil {
			return fmt.Errorf("pre-shared key: %w", err)
		}
	}
	return nil
}

// Check tells what is wrong with the answer.
func (r *Renewed) Check() error {
	if r.Seconds < 1 || r.Seconds > 7*24*3600 {
		return fmt.Errorf("leases for %d seconds", r.Seconds)
	}
	return r.Server.check(r.Version)
}

func (s *Server) check(version int) error {
	if err := checkKey(version, s.PublicKey); err != nil {
		return fmt.Errorf("the gateway's %w", err)
	}
	if n := len(s.Endpoints); n == 0 || n > MaxEndpoints {
		return fmt.Errorf("the gateway has %d endpoints, one has 1 to %d", n, MaxEndpoints)
	}
	for _, e := range s.Endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" || len(e) > MaxEndpoint {
			return fmt.Errorf("%.60q is no endpoint of a gateway", e)
		}
	}
	if s.MTU < 1280 || s.MTU > 65000 {
		return fmt.Errorf("an MTU of %d bytes, it is 1280 to 65000", s.MTU)
	}
	return nil
}
