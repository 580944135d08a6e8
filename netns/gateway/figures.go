package gateway

import (
	"errors"
	"net/http"
	"sync"

	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/runtime/reception"
)

// Figures is how it stands with a gateway, and what it has counted since it began.
type Figures struct {
	Clients   int // of the list
	Leases    int
	Most      int               // leases that it gives at once
	Addresses int               // numbers that are free: each is an address of each pool
	Given     uint64            // leases
	Ended     map[Reason]uint64 // leases
	Mended    uint64            // times that rules of netfilter were put in force again
	Missed    uint64            // times that ends of connections were not heard of

	// Dropped are packets, since rules were put in force the last time; nil where the kernel does not say.
	Dropped map[nft.Counter]uint64
}

// Reason is why a lease has ended.
type Reason string

// The reasons.
const (
	Released  Reason = "released"  // its node gave it back
	Expired   Reason = "expired"   // its node did not renew it
	Revoked   Reason = "revoked"   // its node is no client any more
	Unwritten Reason = "unwritten" // it could not be written down, and its node was not told of it
)

// Reasons are all of them.
var Reasons = []Reason{Released, Expired, Revoked, Unwritten}

// Figures tells how it stands with the gateway.
func (g *Gateway) Figures() Figures {
	dropped, err := g.plane.dropped()
	if err != nil {
		dropped = nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.figures
	f.Clients, f.Leases, f.Most, f.Addresses, f.Dropped = len(g.clients), len(g.leases), g.config.Leases, g.addresses.left(), dropped
	f.Ended = make(map[Reason]uint64, len(g.figures.Ended))
	for why, n := range g.figures.Ended {
		f.Ended[why] = n
	}
	return f
}

// DoorFigures is what came to a gateway's door since it was opened.
type DoorFigures struct {
	Connections int // that have shown a certificate, now
	Refused     reception.Counts
	Answers     map[Answer]uint64
}

// Answer is a kind of request with what became of it.
type Answer struct {
	Request string // one of Requests
	Outcome string // one of Outcomes
}

// Requests are the kinds of what nodes ask for.
var Requests = []string{"allocate", "rekey", "renew", "release", "stats", "receipts", "other"}

// Outcomes are what becomes of requests: done; not understood, or of a lease that there is not; of a node that may not ask; beyond a limit of
// leases or requests; or the gateway could not.
var Outcomes = []string{"done", "invalid", "denied", "limited", "failed"}

// outcome is that of an HTTP status.
func outcome(status int) string {
	switch {
	case status < 300:
		return "done"
	case status == http.StatusForbidden:
		return "denied"
	case status == http.StatusTooManyRequests:
		return "limited"
	case status < 500:
		return "invalid"
	}
	return "failed"
}

// answers counts them.
type answers struct {
	mu sync.Mutex
	of map[Answer]uint64 // guarded by mu
}

func (a *answers) count(request string, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of[Answer{request, outcome(status)}]++
}

// Figures tells what came to the door.
func (d *Door) Figures() DoorFigures {
	f := DoorFigures{Connections: d.reception.Guests(), Refused: d.reception.Counts(), Answers: make(map[Answer]uint64)}
	d.answers.mu.Lock()
	defer d.answers.mu.Unlock()
	for a, n := range d.answers.of {
		f.Answers[a] = n
	}
	return f
}

// dropped reads what the rules have dropped.
func (p *kernelPlane) dropped() (counts map[nft.Counter]uint64, err error) {
	err = p.ns.Do(func() error {
		counts, err = nft.GatewayCounts()
		return err
	})
	if err != nil {
		return nil, errors.Join(errors.New("what the gateway's rules have dropped"), err)
	}
	return counts, nil
}
