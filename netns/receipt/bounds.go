package receipt

import (
	"fmt"

	"forefend.dev/forefend/netns/flow"
)

// Sum is what a gateway counted of one connection, in all its parts.
type Sum struct{ Up, Down Count }

// Sizes of headers, in bytes (RFC 9293, 791, 8200): of IP without options and TCP without any, and with as many as there can be. A
// segment without payload has at most those of the handshake (segment size, scale, timestamps, SACK permitted: 20 bytes of options), but
// for acknowledgements of data that came out of order.
const (
	bare4, full4, plain4 = 40, 80, 60
	bare6, full6, plain6 = 60, 100, 80
)

func least(a *flow.Account) uint64 {
	if a.Local.Addr().Is6() {
		return bare6
	}
	return bare4
}

func most(a *flow.Account) uint64 {
	if a.Local.Addr().Is6() {
		return full6
	}
	return full4
}

// bare is how much a packet of a connection that nothing was sent by has at most.
func bare(at ends) uint64 {
	if at.local.Addr().Is6() {
		return plain6
	}
	return plain4
}

// atLeast is how much payload there is in a count at least, if each packet has a header of so many bytes.
func atLeast(c Count, header uint64) uint64 {
	if c.Packets > c.Bytes/header {
		return 0
	}
	return c.Bytes - c.Packets*header
}

// ends are two bytes that TCP_INFO counts as payload and that are none: SYN and FIN.
const flags = 2

// tooLittle tells whether a gateway's count, made after an account, lacks what had arrived by then.
func tooLittle(a *flow.Account, s Sum) bool {
	return atLeast(s.Up, least(a))+flags < a.Acked || atLeast(s.Down, least(a))+flags < a.Received
}

// What a gateway may have seen of what comes back beyond what arrived: what was lost behind it and sent again, of which a receiver knows
// nothing.
const lossSlack = 64 << 10

// tooMuch tells whether a gateway's count, made before an account, has more than had been sent by then.
func tooMuch(a *flow.Account, s Sum) bool {
	sent, back := a.Sent, a.Received+a.Repeated
	back += back/2 + lossSlack
	if !a.Ended.IsZero() { // what was open then may have gone out since, several times
		sent += 3 * a.Open
		back += a.Window
	}
	return atLeast(s.Up, most(a)) > sent+flags || atLeast(s.Down, most(a)) > back+flags
}

// sum is what the receipts of an entry come to, and which they are.
func (o *line) sum(i int) (s Sum, parts []part) {
	for _, p := range o.parts {
		if o.of(p) != i {
			continue
		}
		parts = append(parts, p)
		s.Up.add(p.Up)
		s.Down.add(p.Down)
	}
	return s, parts
}

func (c *Count) add(o Count) {
	c.Bytes += o.Bytes
	c.Packets += o.Packets
}

// of is the entry that a part belongs to: the last one that had begun by then.
func (o *line) of(p part) (i int) {
	for n, e := range o.entries {
		if !e.account.Began.After(p.began.Add(skew)) {
			i = n
		}
	}
	return i
}

// whole tells whether the gateway has counted the connection from its beginning.
func (e *entry) whole(parts []part) bool {
	return parts[0].began.Before(e.account.Began.Add(dialling + skew))
}

func shrunk(older, newer *part) error {
	return fmt.Errorf("receipt %d of the connection %s to %s takes back what receipt %d said: %w", newer.Serial, newer.Peer, newer.Server, older.Serial, ErrForged)
}
