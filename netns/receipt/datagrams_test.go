package receipt

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

var resolver = netip.MustParseAddrPort("198.51.100.53:53")

// exchanged is what an interceptor says of one resolver.
func exchanged(sent, received uint64) flow.Datagrams {
	return flow.Datagrams{Remote: resolver, Tunnel: "far", Sent: sent, Received: received}
}

func (b *bench) claimDatagrams(all ...flow.Datagrams) []flow.Verdict {
	b.pass(time.Second)
	if all == nil {
		all = []flow.Datagrams{}
	}
	return b.l.Claim(&flow.Accounts{Since: b.inter, At: b.now, Datagrams: all, Left: b.left, Lost: b.lost}, b.now)
}

// query is a gateway's count of the datagrams from a port, with payload each way.
func (b *bench) query(port uint16, up, packets, down uint64, final bool) Receipt {
	r := b.receipt(Count{up + 28*packets, packets}, Count{})
	if down > 0 {
		r.Down = Count{down + 28, 1}
	}
	r.Protocol, r.Peer, r.Server, r.Final = flow.UDP, netip.AddrPortFrom(local.Addr(), port), resolver, final
	return r
}

// TestDatagramsAgree: queries come and go, from a port each; one is lost before the gateway and one answer after it.
func TestDatagramsAgree(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claimDatagrams(exchanged(30, 0)))
	b.is(flow.Pending)
	b.none(b.received(b.query(1, 30, 1, 90, false)))
	b.is(flow.Agrees)
	b.none(b.claimDatagrams(exchanged(120, 90)))
	b.none(b.received(b.query(2, 30, 1, 90, false), b.query(3, 30, 1, 90, true)))
	b.none(b.claimDatagrams(exchanged(120, 180)))
	b.none(b.received(b.query(1, 30, 1, 90, true), b.query(2, 30, 1, 90, true)))
	b.none(b.claimDatagrams(exchanged(120, 180)))
	b.none(b.received())
	b.is(flow.Agrees)
	for _, x := range b.l.exchanges {
		if len(x.parts) > 0 || x.past.Up.Packets != 3 || x.ours != x.past.Up {
			t.Errorf("%+v", x)
		}
	}
	if v := b.l.Verdicts(b.now)[0]; v.Protocol != flow.UDP || v.Local.IsValid() || v.Remote != resolver || v.Account.Sent != 120 || v.Receipt.Packets != 3 || v.Receipt.BytesBack != 3*(90+28) {
		t.Errorf("%+v of %+v, %+v", v, v.Account, v.Receipt)
	}
}

// TestDatagramsContradict has more be counted than was sent, and less than has arrived.
func TestDatagramsContradict(t *testing.T) {
	for name, c := range map[string]struct {
		say  []flow.Datagrams
		is   flow.Standing
		make func(b *bench) Receipt
	}{
		"more":            {[]flow.Datagrams{exchanged(30, 0)}, flow.Differs, func(b *bench) Receipt { return b.query(1, 31, 1, 0, false) }},
		"more, ended":     {[]flow.Datagrams{exchanged(30, 0)}, flow.Differs, func(b *bench) Receipt { return b.query(1, 31, 1, 0, true) }},
		"less":            {[]flow.Datagrams{exchanged(30, 91)}, flow.Differs, func(b *bench) Receipt { return b.query(1, 30, 1, 90, false) }},
		"nothing":         {[]flow.Datagrams{exchanged(30, 1)}, flow.Differs, nil},
		"nobody's":        {[]flow.Datagrams{}, flow.Unclaimed, func(b *bench) Receipt { return b.query(1, 1, 1, 0, false) }},
		"nobody's, ended": {[]flow.Datagrams{}, flow.Unclaimed, func(b *bench) Receipt { return b.query(1, 1, 1, 0, true) }},
		"of another protocol": {[]flow.Datagrams{exchanged(30, 0)}, flow.Unclaimed, func(b *bench) Receipt {
			r := b.query(1, 0, 1, 0, false)
			r.Protocol = 1
			return r
		}},
		"by another tunnel": {[]flow.Datagrams{{Remote: resolver, Tunnel: "near", Sent: 30}}, flow.Unclaimed, func(b *bench) Receipt { return b.query(1, 30, 1, 0, false) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			b.none(b.claimDatagrams(c.say...))
			var faults []flow.Verdict
			if c.make != nil {
				faults = b.received(c.make(b))
			} else {
				faults = b.received()
			}
			v := b.one(append(faults, b.claimDatagrams(c.say...)...), c.is)
			if v.Remote != resolver || v.Tunnel != "far" || v.Why == "" || (v.Account == nil) != (c.is == flow.Unclaimed) || v.Local.IsValid() != (c.is == flow.Unclaimed) {
				t.Errorf("told as %+v", v)
			}
			b.none(b.received())
			b.none(b.claimDatagrams(c.say...)) // it is told once
		})
	}
}

// TestDatagramsOverIPv6: headers are longer there.
func TestDatagramsOverIPv6(t *testing.T) {
	six := netip.MustParseAddrPort("[2001:db8::53]:53")
	for sent, want := range map[uint64]flow.Standing{30: flow.Agrees, 29: flow.Differs} {
		b := newBench(t)
		b.pass(20 * time.Second)
		say := flow.Datagrams{Remote: six, Tunnel: "far", Sent: sent, Received: 90}
		b.none(b.claimDatagrams(say))
		r := b.receipt(Count{30 + 48, 1}, Count{90 + 48, 1})
		r.Protocol, r.Peer, r.Server = flow.UDP, netip.MustParseAddrPort("[fd08::2]:1"), six
		b.none(b.received(r))
		if faults := b.claimDatagrams(say); len(faults) > 0 != want.Fault() {
			t.Errorf("%d bytes: %+v", sent, faults)
		}
		b.is(want)
	}
}

// TestDatagramsExcused are counts that do not add up and that nobody can be blamed for.
func TestDatagramsExcused(t *testing.T) {
	for name, play := range map[string]func(b *bench){
		"an interceptor of before, which counts none": func(b *bench) {
			b.none(b.received(b.query(1, 30, 1, 0, true)))
			b.none(b.claim())
		},
		"what began before the interceptor": func(b *bench) {
			b.inter = b.now
			b.none(b.claimDatagrams())
			b.none(b.received(b.query(1, 30, 1, 0, true)))
			b.none(b.claimDatagrams())
		},
		"of an interceptor whose place was taken": func(b *bench) {
			b.none(b.claimDatagrams(exchanged(60, 180)))
			b.none(b.received(b.query(1, 30, 1, 90, true), b.query(2, 30, 1, 90, false)))
			b.none(b.claimDatagrams(exchanged(60, 180)))
			b.inter = b.now
			b.none(b.claimDatagrams())
			b.none(b.received(b.query(2, 30, 1, 90, true)))
			b.none(b.claimDatagrams(exchanged(30, 0)))
			b.none(b.received())
		},
		"more servers than are counted": func(b *bench) {
			b.none(b.claimDatagrams())
			b.none(b.received(b.query(1, 30, 1, 0, true)))
			b.left, b.lost = 1, b.now
			b.none(b.claimDatagrams())
		},
		"counted after the account": func(b *bench) {
			b.none(b.claimDatagrams(exchanged(0, 0)))
			b.none(b.received(b.query(1, 30, 1, 0, true)))
			b.pass(-10 * time.Second)
			b.none(b.claimDatagrams(exchanged(0, 0)))
		},
		"a gateway that has forgotten": func(b *bench) {
			b.none(b.claimDatagrams(exchanged(60, 180)))
			b.none(b.received(b.query(1, 30, 1, 90, true), b.query(2, 30, 1, 90, false)))
			b.since = b.now
			b.none(b.claimDatagrams(exchanged(90, 270)))
			b.none(b.received())
			b.is(flow.Unsettled)
			b.none(b.claimDatagrams(exchanged(120, 360)))
			b.none(b.received(b.query(4, 30, 1, 90, false)))
			b.is(flow.Agrees)
			b.none(b.claimDatagrams(exchanged(120, 450)))
			b.none(b.received())
			b.is(flow.Agrees)
			b.none(b.claimDatagrams(exchanged(120, 451)))
			b.one(b.received(), flow.Differs)
		},
		"tunneld has forgotten": func(b *bench) {
			b.l.begun = b.now
			b.none(b.claimDatagrams(exchanged(90, 270)))
			b.none(b.received())
			b.is(flow.Agrees)
			b.none(b.claimDatagrams(exchanged(90, 271)))
			b.one(b.received(), flow.Differs)
		},
		"asked by two tunnels": func(b *bench) {
			b.none(b.claimDatagrams(exchanged(60, 180)))
			one, two := b.query(1, 30, 1, 90, true), b.query(2, 30, 1, 90, true)
			b.none(b.received(one, two))
			b.none(b.received(one))
			b.none(b.claimDatagrams(exchanged(60, 180)))
			b.none(b.received(one, two))
			b.none(b.claimDatagrams(exchanged(60, 180)))
			b.none(b.received())
			b.is(flow.Agrees)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			play(b)
		})
	}
}

// TestDatagramsTakenBack is about receipts that contradict those of before, which is told of all that goes by the tunnel.
func TestDatagramsTakenBack(t *testing.T) {
	for name, then := range map[string]func(b *bench) Receipt{
		"bytes":   func(b *bench) Receipt { return b.query(1, 29, 1, 90, false) },
		"packets": func(b *bench) Receipt { r := b.query(1, 30, 1, 90, false); r.Down.Packets--; return r },
		"after final": func(b *bench) Receipt {
			b.none(b.received(b.query(1, 30, 1, 90, true)))
			return b.query(1, 30, 1, 90, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			b.none(b.claimDatagrams(exchanged(30, 90)))
			b.none(b.received(b.query(1, 30, 1, 90, false)))
			if _, err := b.receive(then(b)); !errors.Is(err, ErrForged) {
				t.Fatal(err)
			}
			b.one(b.l.Break("far", "forged", b.now), flow.Forged)
			b.none(b.l.Break("far", "forged", b.now))
			b.is(flow.Forged)
		})
	}
}

// TestDatagramsBounds has an agent and a gateway tell of more than there can be: nothing is said of what there is no room for.
func TestDatagramsBounds(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	var servers []flow.Datagrams
	for i := range maxExchanges + 9 {
		servers = append(servers, flow.Datagrams{Remote: netip.AddrPortFrom(remote.Addr(), uint16(i+1)), Tunnel: "far"})
	}
	servers[0].Tunnel = string(make([]byte, maxName+1))
	b.none(b.claimDatagrams(servers...))
	if len(b.l.exchanges) != maxExchanges || b.l.Left() != 8 {
		t.Errorf("%d servers, %d are left out", len(b.l.exchanges), b.l.Left())
	}
	b.none(b.received(b.query(1, 30, 1, 0, false)))
	b.none(b.claimDatagrams())

	b = newBench(t)
	b.pass(20 * time.Second)
	say := exchanged(1<<30, 90*(maxLines+5))
	b.none(b.claimDatagrams(say))
	var many []Receipt
	for i := range maxLines + 5 {
		r := b.query(1, 30, 1, 90, false)
		r.Began = r.Began.Add(time.Duration(i))
		many = append(many, r)
	}
	b.none(b.received(many...))
	if b.l.open != maxLines || b.l.Left() != 5 {
		t.Errorf("%d parts, %d are left out", b.l.open, b.l.Left())
	}
	b.is(flow.Unsettled)
	b.none(b.claimDatagrams(say))
	b.none(b.received())
	b.is(flow.Agrees)
	if b.l.open != 0 {
		t.Errorf("%d parts are still counted", b.l.open)
	}
}
