package receipt

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Bounds of a Ledger.
const (
	maxLines     = 16384            // connections
	maxSame      = 16               // of them, and receipts, with the same ends
	maxExchanges = 1024             // servers, protocols and tunnels of datagrams
	maxName      = 128              // bytes, of a tunnel
	settled      = 30 * time.Second // after a connection has ended, with its last receipt
	kept         = 15 * time.Minute // and without: the kernel goes on sending what was written to it
	skew         = 3 * time.Second  // by which a moment of the gateway's, on the node's clock, may be wrong
	dialling     = 15 * time.Second
)

// looks is how many answers a connection must be missing from to be astray.
const looks = 2

// Ledger holds accounts and receipts of one network namespace against each other.
//
// A round is Claim until the accounts are all there, then Receive until the receipts are, then Settle for each tunnel that was asked. What it
// returns are faults that were not told before.
type Ledger struct {
	begun  time.Time           // on the node's clock, as are all moments here
	leases map[[16]byte]string // the namespace's, with their tunnels
	lines  map[ends]*line
	since  time.Time // the interceptor's beginning
	at     time.Time // when the accounts of the claim that is being made were read; zero: none is
	lost   time.Time // accounts of connections that began before are not all known
	left   uint64    // how many are not, of this interceptor
	missed uint64    // of earlier ones, and beyond the bounds
	count  int       // entries that there are

	exchanges map[counterpart]*exchange
	open      int                  // parts of exchanges
	serials   map[[16]byte]uint64  // of leases, the last of receipts without connection
	gateways  map[string]time.Time // since when a tunnel's has missed nothing, by its clock
}

type ends struct{ local, remote netip.AddrPort }

// line is all that is known about connections with the same ends, one after another.
type line struct {
	entries []*entry // by beginning
	parts   []part   // by beginning
	told    bool     // that it is unclaimed
}

// entry is a connection that an interceptor knows.
type entry struct {
	account flow.Account
	unseen  int  // claims in a row that did not have it
	gone    bool // the interceptor does not tell of it any more, and has not told of its end
	missing int  // answers in a row that did not have it
	told    flow.Standing
	is      flow.Standing
	why     string
}

// part is a receipt. A connection has one, but where the gateway's kernel forgot it under way.
type part struct {
	Receipt
	tunnel string
	began  time.Time
	read   time.Time
}

// NewLedger makes an empty one. Connections of before are none that somebody should have claimed.
func NewLedger(now time.Time) *Ledger {
	return &Ledger{begun: now, leases: make(map[[16]byte]string), lines: make(map[ends]*line), exchanges: make(map[counterpart]*exchange),
		serials: make(map[[16]byte]uint64), gateways: make(map[string]time.Time)}
}

// Hold notes that a lease is the namespace's, also after it has ended.
func (l *Ledger) Hold(lease [16]byte, tunnel string) { l.leases[lease] = tunnel }

// Holds tells whose tunnel a lease is of.
func (l *Ledger) Holds(lease [16]byte) (tunnel string, ok bool) {
	tunnel, ok = l.leases[lease]
	return tunnel, ok
}

// Claim takes accounts. With the last of them it looks whether what the gateway counted before can have been sent by them.
func (l *Ledger) Claim(a *flow.Accounts, now time.Time) []flow.Verdict {
	if !a.Since.Equal(l.since) { // another interceptor: of the old one's connections nothing more is told
		l.missed += l.left
		l.since, l.left = a.Since, 0
		l.another()
	}
	if l.at.IsZero() {
		l.at = a.At
	}
	if a.Left > l.left { // which is told: an excuse that costs nothing would be everybody's
		l.left = a.Left
		if a.Lost.After(now) {
			a.Lost = now
		}
		l.lost = latest(l.lost, a.Lost)
	}
	for i := range a.List {
		l.note(&a.List[i], now)
	}
	if a.More {
		return nil
	}
	read := l.at
	l.at, l.count = time.Time{}, 0
	var faults []flow.Verdict
	for at, of := range l.lines {
		for _, e := range of.entries {
			e.unseen++ // note has made it 0, in this claim
			e.gone = e.gone || e.unseen > looks && e.account.Ended.IsZero()
		}
		faults = append(faults, l.unclaimed(at, of, read)...)
		for i, e := range of.entries {
			if sum, parts := of.sum(i); !e.gone && e.current() && before(parts, read) && tooMuch(&e.account, sum) {
				faults = e.found(faults, at, flow.Differs, "the gateway counts more than was sent", sum, parts, now)
			}
		}
		l.forget(at, of, now)
		l.count += len(of.entries)
	}
	return append(faults, l.claimDatagrams(a.Datagrams, read, now)...)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// line is the one with these ends, begun if there is none; nil: there is no room, which is noted.
func (l *Ledger) line(at ends, now time.Time) *line {
	if of := l.lines[at]; of != nil {
		return of
	}
	if len(l.lines) >= maxLines {
		l.miss(now)
		return nil
	}
	of := &line{}
	l.lines[at] = of
	return of
}

// miss notes that there was no room for a connection.
func (l *Ledger) miss(now time.Time) {
	l.missed++
	l.lost = now
}

// note takes one account.
func (l *Ledger) note(a *flow.Account, now time.Time) {
	at := ends{a.Local, a.Remote}
	of := l.line(at, now)
	if of == nil {
		return
	}
	i := slices.IndexFunc(of.entries, func(e *entry) bool { return e.account.ID == a.ID && e.account.Began.Equal(a.Began) })
	if i < 0 && (len(of.entries) >= maxSame || l.count >= maxLines) {
		l.miss(now)
		return
	}
	if len(a.Tunnel) > maxName {
		a.Tunnel = "" // there is none of that name
	}
	if i < 0 {
		l.count++
		of.entries = append(of.entries, &entry{account: *a, is: flow.Pending})
		slices.SortStableFunc(of.entries, func(a, b *entry) int { return a.account.Began.Compare(b.account.Began) })
		return
	}
	of.entries[i].account, of.entries[i].unseen = *a, 0
}

// before tells whether receipts are there and were all read before a moment.
func before(parts []part, moment time.Time) bool {
	return len(parts) > 0 && !slices.ContainsFunc(parts, func(p part) bool { return !p.read.Before(moment) })
}

// current tells whether the account is of the claim that was just made, or the last there will be.
func (e *entry) current() bool { return e.unseen == 1 || !e.account.Ended.IsZero() }

// unclaimed finds payload of connections of which there is no account, though there should be: a connection carries none before
// there is.
func (l *Ledger) unclaimed(at ends, of *line, read time.Time) (faults []flow.Verdict) {
	if len(of.entries) > 0 || of.told {
		return nil
	}
	for _, p := range of.parts {
		known := latest(latest(l.since, l.lost), l.begun)
		if !p.read.Before(read) || atLeast(p.Up, bare(at)) == 0 || !p.began.After(known.Add(skew)) {
			continue
		}
		of.told = true
		return []flow.Verdict{{Protocol: flow.TCP, Local: at.local, Remote: at.remote, Tunnel: p.tunnel, Standing: flow.Unclaimed, Ended: p.Final,
			Why: "the gateway counts a connection that the container's interceptor does not know", Receipt: p.told(p.read)}}
	}
	return nil
}

// forget drops what nothing more comes of. Of a connection that nobody claims all is kept until the gateway has forgotten it: it may be silent
// for long.
func (l *Ledger) forget(at ends, of *line, now time.Time) {
	var over time.Time
	of.entries = slices.DeleteFunc(of.entries, func(e *entry) bool {
		ended := e.account.Ended
		past := !ended.IsZero() && now.Sub(ended) > kept || e.gone
		if !past && !ended.IsZero() && now.Sub(ended) > settled {
			past = len(of.parts) > 0 && !slices.ContainsFunc(of.parts, func(p part) bool { return !p.Final })
		}
		if past {
			over = latest(over, ended.Add(skew))
		}
		return past
	})
	if len(of.entries) > 0 {
		return
	}
	of.parts = slices.DeleteFunc(of.parts, func(p part) bool { return p.Final || !p.began.After(over) })
	if len(of.parts) == 0 {
		delete(l.lines, at)
	}
}

// Receive takes receipts that a tunnel's gateway was asked for after the last Claim; now is when they came. An error is about receipts that take back
// what others said, and wraps ErrForged.
func (l *Ledger) Receive(tunnel string, s *Sheet, now time.Time) error {
	l.restarted(tunnel, s.Since, now)
	for i := range s.Receipts {
		r := &s.Receipts[i]
		tunnel, ours := l.leases[r.Lease]
		if !ours {
			continue
		}
		at := ends{r.Peer, r.Server}
		began := now.Add(-s.At.Sub(r.Began))
		if r.Protocol != flow.TCP {
			if err := l.datagrams(part{*r, tunnel, began, now}, now); err != nil {
				return err
			}
			continue
		}
		if l.lines[at] == nil && r.Final && now.Sub(began) > kept {
			continue // the last word of one that was dealt with long ago, whose peer vanished
		}
		of := l.line(at, now)
		if of == nil {
			continue
		}
		switch err := of.take(part{*r, tunnel, began, now}); {
		case errors.Is(err, errFull):
			l.miss(now)
		case err != nil:
			return err
		}
	}
	return nil
}

// errFull says that there are more receipts with the same ends than connections of anybody's have.
var errFull = errors.New("no room")

// take notes a receipt, which replaces an older one of the same connection.
func (o *line) take(p part) error {
	i := slices.IndexFunc(o.parts, func(old part) bool { return old.Began.Equal(p.Began) })
	if i < 0 && len(o.parts) >= maxSame {
		return errFull
	}
	if i < 0 {
		o.parts = append(o.parts, p)
		slices.SortStableFunc(o.parts, func(a, b part) int { return a.Began.Compare(b.Began) })
		return nil
	}
	old := &o.parts[i]
	if p.Receipt == old.Receipt {
		return nil // it was asked for again
	}
	older, newer := old, &p
	if p.Serial < old.Serial { // by another tunnel of the same gateway, which was asked at the same time: what it answered was overtaken
		older, newer = &p, old
	}
	if newer.Serial == older.Serial || newer.Up.less(older.Up) || newer.Down.less(older.Down) || older.Final {
		return shrunk(older, newer)
	}
	if newer == old {
		return nil
	}
	p.began = old.began // the first guess was the closest
	*old = p
	return nil
}

func (c Count) less(than Count) bool { return c.Bytes < than.Bytes || c.Packets < than.Packets }

// Settle looks at a tunnel's connections once all receipts are there: what was acknowledged to an account must have passed the gateway, which has
// missed nothing since a moment.
func (l *Ledger) Settle(tunnel string, since, now time.Time) (faults []flow.Verdict) {
	for at, of := range l.lines {
		for i, e := range of.entries {
			if e.account.Tunnel != tunnel || e.gone {
				continue
			}
			sum, parts := of.sum(i)
			if len(parts) == 0 {
				faults = append(faults, e.absent(at, since, now)...)
				continue
			}
			e.missing = 0
			switch {
			case e.is.Fault():
			case !e.whole(parts):
				e.is, e.why = flow.Partial, "the gateway has not seen its beginning"
			case tooLittle(&e.account, sum):
				faults = e.found(faults, at, flow.Differs, "the gateway counts less than has arrived", sum, parts, now)
			default:
				e.is, e.why = flow.Agrees, ""
			}
		}
	}
	return append(faults, l.settleDatagrams(tunnel, now)...)
}

// absent is for a connection that has no receipt.
func (e *entry) absent(at ends, since, now time.Time) []flow.Verdict {
	if e.account.Began.Before(since.Add(skew)) {
		e.is, e.why = flow.Unsettled, "the gateway knows nothing of before "+since.UTC().Format(time.TimeOnly)+" UTC"
		return nil
	}
	if e.missing++; e.missing < looks {
		e.is, e.why = flow.Pending, "the gateway has not counted it"
		return nil
	}
	return e.found(nil, at, flow.Astray, "the gateway does not know it: it went elsewhere", Sum{}, nil, now)
}

// found notes a fault, and adds it to those to be told unless it was.
func (e *entry) found(faults []flow.Verdict, at ends, is flow.Standing, why string, sum Sum, parts []part, now time.Time) []flow.Verdict {
	e.is, e.why = is, why
	if e.told == is {
		return faults
	}
	e.told = is
	return append(faults, e.verdict(at, sum, parts, now))
}

// Break has a tunnel's connections be those of a gateway whose answers are forged.
func (l *Ledger) Break(tunnel, why string, now time.Time) (faults []flow.Verdict) {
	for at, of := range l.lines {
		for i, e := range of.entries {
			if e.account.Tunnel != tunnel || e.gone || !e.account.Ended.IsZero() {
				continue
			}
			sum, parts := of.sum(i)
			faults = e.found(faults, at, flow.Forged, why, sum, parts, now)
		}
	}
	return append(faults, l.breakDatagrams(tunnel, why, now)...)
}

// Verdicts are about all connections that are known, the oldest first.
func (l *Ledger) Verdicts(now time.Time) (all []flow.Verdict) {
	for at, of := range l.lines {
		for i, e := range of.entries {
			sum, parts := of.sum(i)
			all = append(all, e.verdict(at, sum, parts, now))
		}
		if of.told {
			for _, p := range of.parts {
				all = append(all, flow.Verdict{Protocol: flow.TCP, Local: at.local, Remote: at.remote, Tunnel: p.tunnel, Standing: flow.Unclaimed, Ended: p.Final, Receipt: p.told(now)})
			}
		}
	}
	all = append(all, l.datagramVerdicts(now)...)
	slices.SortFunc(all, func(a, b flow.Verdict) int {
		return cmp.Or(began(&a).Compare(began(&b)), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return all
}

func began(v *flow.Verdict) time.Time {
	if v.Account == nil {
		return time.Time{}
	}
	return v.Account.Began
}

// Left is how many connections nothing is known of, since more ended at once than are kept.
func (l *Ledger) Left() uint64 { return l.missed + l.left }

func (e *entry) verdict(at ends, sum Sum, parts []part, now time.Time) flow.Verdict {
	a := e.account
	v := flow.Verdict{Protocol: flow.TCP, Local: at.local, Remote: at.remote, Tunnel: a.Tunnel, Standing: e.is, Why: e.why, Ended: !a.Ended.IsZero(), Account: &a}
	if len(parts) > 0 {
		last := parts[len(parts)-1]
		v.Receipt = last.told(now)
		v.Receipt.Bytes, v.Receipt.Packets, v.Receipt.BytesBack, v.Receipt.PacketsBack = sum.Up.Bytes, sum.Up.Packets, sum.Down.Bytes, sum.Down.Packets
	}
	return v
}

func (p *part) told(now time.Time) *flow.Receipt {
	return &flow.Receipt{Serial: p.Serial, Age: now.Sub(p.read), Bytes: p.Up.Bytes, Packets: p.Up.Packets, BytesBack: p.Down.Bytes, PacketsBack: p.Down.Packets, Final: p.Final}
}
