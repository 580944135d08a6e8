package receipt

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Headers of a datagram, in bytes: of IP (the gateway's kernel has put fragments together) and UDP.
const (
	datagram4 = 28
	datagram6 = 48
)

// counterpart is a server, by one protocol without connections and one tunnel.
type counterpart struct {
	server   netip.AddrPort
	protocol uint8
	tunnel   string
}

// exchange is all that passes between a namespace and a counterpart. Datagrams that are lost nobody sends again, so the gateway may have
// counted less than was sent; it cannot have counted more, nor less than has arrived.
type exchange struct {
	claimed bool // by account
	account flow.Datagrams
	parts   map[origin]*part // those that ended are here until a claim was made after them
	past    Sum              // of the others
	ours    Count            // what of past.Up the interceptor of now must have sent
	excused uint64           // bytes that have arrived and that the gateway may have forgotten
	anew    time.Time        // when it was found to have forgotten some; zero: it has not, or that is excused
	read    time.Time        // the last receipt
	serial  uint64           // its
	told    bool
	is      flow.Standing
	why     string
}

// origin is where a part comes from.
type origin struct {
	peer  netip.AddrPort
	began time.Time // by the gateway's clock
}

// exchange is the one with a counterpart, begun if there is none; nil: there is no room, which is noted.
func (l *Ledger) exchange(with counterpart, now time.Time) *exchange {
	x := l.exchanges[with]
	if x == nil && len(l.exchanges) >= maxExchanges {
		l.miss(now)
		return nil
	}
	if x == nil {
		x = &exchange{parts: make(map[origin]*part), is: flow.Pending}
		l.exchanges[with] = x
	}
	return x
}

// claimDatagrams takes what an interceptor says of datagrams, and looks whether what the gateway counted before can have been sent by it.
func (l *Ledger) claimDatagrams(all []flow.Datagrams, read, now time.Time) (faults []flow.Verdict) {
	if all == nil {
		return nil
	}
	for i := range all {
		l.noteDatagrams(&all[i], now)
	}
	known := l.known()
	l.open = 0
	for with, x := range l.exchanges {
		if x.read.Before(read) && payload(with, x.sent(known)) > x.account.Sent {
			faults = x.found(faults, with, x.tooMuch(), "the gateway counts more datagrams than the container's interceptor has sent", now)
		}
		x.settle(known, read)
		l.open += len(x.parts)
		if !x.claimed && len(x.parts) == 0 && !x.told {
			delete(l.exchanges, with)
		}
	}
	return faults
}

func (l *Ledger) noteDatagrams(d *flow.Datagrams, now time.Time) {
	if len(d.Tunnel) > maxName {
		return // there is none of that name
	}
	x := l.exchange(counterpart{d.Remote, flow.UDP, d.Tunnel}, now)
	if x == nil {
		return
	}
	if !x.claimed && l.since.Before(l.begun) { // there was another ledger
		x.excused = d.Received
	}
	x.claimed, x.account = true, *d
}

func (x *exchange) tooMuch() flow.Standing {
	if x.claimed {
		return flow.Differs
	}
	return flow.Unclaimed
}

// settle makes sums of what was compared with an account that was read at a moment.
func (x *exchange) settle(known, read time.Time) {
	if !x.anew.IsZero() && x.anew.Before(read) { // whatever passed before the account is in it
		x.excused, x.past.Down, x.anew = x.account.Received, Count{}, time.Time{}
		clear(x.parts)
		return
	}
	for at, p := range x.parts {
		if !p.Final || !p.read.Before(read) {
			continue
		}
		x.past.Up.add(p.Up)
		x.past.Down.add(p.Down)
		if p.began.After(known) {
			x.ours.add(p.Up)
		}
		delete(x.parts, at)
	}
}

// known is from when on everything must be claimed.
func (l *Ledger) known() time.Time { return latest(latest(l.since, l.lost), l.begun).Add(skew) }

// another has the exchanges be those of an interceptor that has sent nothing yet.
func (l *Ledger) another() {
	for _, x := range l.exchanges {
		x.claimed, x.account, x.excused, x.ours = false, flow.Datagrams{}, 0, Count{}
	}
}

// sent is what the gateway counts of what began after a moment.
func (x *exchange) sent(after time.Time) Count {
	n := x.ours
	for _, p := range x.parts {
		if p.began.After(after) {
			n.add(p.Up)
		}
	}
	return n
}

// sum is all that the gateway counts.
func (x *exchange) sum() Sum {
	s := x.past
	for _, p := range x.parts {
		s.Up.add(p.Up)
		s.Down.add(p.Down)
	}
	return s
}

// payload is how many bytes of a count are no headers. Of protocols that are not UDP nothing is known but that there is one of IP.
func payload(with counterpart, c Count) uint64 {
	header := uint64(datagram4)
	if with.server.Addr().Is6() {
		header = datagram6
	}
	if with.protocol != flow.UDP {
		header -= 8
	}
	return atLeast(c, header)
}

// datagrams takes the receipt of a part. Those of a lease come in the order of their serials, by whichever of a gateway's tunnels it is asked:
// one that does not was taken before.
func (l *Ledger) datagrams(p part, now time.Time) error {
	if p.Serial <= l.serials[p.Lease] {
		return nil
	}
	l.serials[p.Lease] = p.Serial
	x := l.exchange(counterpart{p.Server, p.Protocol, p.tunnel}, now)
	if x == nil {
		return nil
	}
	x.read, x.serial = now, p.Serial
	at := origin{p.Peer, p.Began}
	switch old := x.parts[at]; {
	case old != nil && (old.Final || p.Up.less(old.Up) || p.Down.less(old.Down)):
		return shrunk(old, &p)
	case old != nil:
		p.began = old.began // the first guess was the closest
	case l.open >= maxLines:
		x.anew = now // of what is not counted nothing can be said
		l.miss(now)
		return nil
	default:
		l.open++
	}
	x.parts[at] = &p
	return nil
}

// restarted has exchanges by a tunnel be begun anew if its gateway has missed something since it was last heard.
func (l *Ledger) restarted(tunnel string, since, now time.Time) {
	if before, ok := l.gateways[tunnel]; ok && !before.Equal(since) {
		for with, x := range l.exchanges {
			if with.tunnel == tunnel {
				x.anew = now
			}
		}
	}
	l.gateways[tunnel] = since
}

// settleDatagrams is Settle for datagrams.
func (l *Ledger) settleDatagrams(tunnel string, now time.Time) (faults []flow.Verdict) {
	for with, x := range l.exchanges {
		if with.tunnel != tunnel || !x.claimed || x.told {
			continue
		}
		switch arrived := x.account.Received; {
		case !x.anew.IsZero():
			x.is, x.why = flow.Unsettled, "the gateway knows nothing of some of them"
		case arrived > x.excused+payload(with, x.sum().Down):
			faults = x.found(faults, with, flow.Differs, "the gateway counts less than has arrived", now)
		default:
			x.is, x.why = flow.Agrees, ""
		}
	}
	return faults
}

// found notes a fault, which is told once.
func (x *exchange) found(faults []flow.Verdict, with counterpart, is flow.Standing, why string, now time.Time) []flow.Verdict {
	if x.told {
		return faults
	}
	x.told, x.is, x.why = true, is, why
	return append(faults, x.verdict(with, now))
}

// verdict names an end where somebody could be cut off: of datagrams that nobody claims, the one whose beginning is the latest.
func (x *exchange) verdict(with counterpart, now time.Time) flow.Verdict {
	v := flow.Verdict{Protocol: with.protocol, Remote: with.server, Tunnel: with.tunnel, Standing: x.is, Why: x.why}
	if a := x.account; x.claimed {
		v.Account = &flow.Account{Remote: a.Remote, Tunnel: a.Tunnel, Sent: a.Sent, Received: a.Received}
	} else {
		v.Local = x.latest()
	}
	if x.serial > 0 {
		s := x.sum()
		v.Receipt = &flow.Receipt{Serial: x.serial, Age: now.Sub(x.read), Bytes: s.Up.Bytes, Packets: s.Up.Packets, BytesBack: s.Down.Bytes, PacketsBack: s.Down.Packets}
	}
	return v
}

// latest is the end of the part that began last.
func (x *exchange) latest() (end netip.AddrPort) {
	var began time.Time
	for _, p := range x.parts {
		if p.began.After(began) {
			end, began = p.Peer, p.began
		}
	}
	return end
}

// datagramVerdicts are about all exchanges that somebody claims, or that somebody should have.
func (l *Ledger) datagramVerdicts(now time.Time) (all []flow.Verdict) {
	for with, x := range l.exchanges {
		if x.claimed || x.told {
			all = append(all, x.verdict(with, now))
		}
	}
	return all
}

// breakDatagrams is Break for datagrams.
func (l *Ledger) breakDatagrams(tunnel, why string, now time.Time) (faults []flow.Verdict) {
	for with, x := range l.exchanges {
		if with.tunnel == tunnel && x.claimed {
			faults = x.found(faults, with, flow.Forged, why, now)
		}
	}
	return faults
}
