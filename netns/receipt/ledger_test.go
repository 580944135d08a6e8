package receipt

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// bench is a ledger with one lease, whose gateway's clock is an hour ahead.
type bench struct {
	t      *testing.T
	l      *Ledger
	now    time.Time
	since  time.Time // of the gateway's, by the node's clock
	start  time.Time
	inter  time.Time // the interceptor's beginning
	serial uint64
	left   uint64
	lost   time.Time
}

const ahead = time.Hour

var (
	lease  = [16]byte{1}
	local  = netip.MustParseAddrPort("10.8.0.2:4000")
	remote = netip.MustParseAddrPort("198.51.100.1:443")
)

func newBench(t *testing.T) *bench {
	start := time.Unix(1_800_000_000, 0)
	b := &bench{t: t, l: NewLedger(start), now: start.Add(time.Minute), since: start, inter: start, start: start}
	b.l.Hold(lease, "far")
	return b
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

func (b *bench) claim(list ...flow.Account) []flow.Verdict {
	b.pass(time.Second)
	return b.l.Claim(&flow.Accounts{Since: b.inter, At: b.now, List: list, Left: b.left, Lost: b.lost}, b.now)
}

// account is one that began ten seconds after the test did, with payload each way.
func (b *bench) account(up, down uint64) flow.Account {
	return flow.Account{ID: 1, Local: local, Remote: remote, Tunnel: "far", Began: b.start.Add(70 * time.Second), Sent: up, Acked: up, Received: down}
}

func (b *bench) ended(a flow.Account) flow.Account {
	a.Ended = b.now
	return a
}

// counted is what a gateway counts of payload in so many packets with timestamps.
func counted(payload, packets uint64) Count { return Count{payload + 52*packets, packets} }

func (b *bench) receipt(up, down Count) Receipt {
	b.serial++
	return Receipt{Serial: b.serial, Lease: lease, Protocol: flow.TCP, Peer: local, Server: remote, Began: b.start.Add(70*time.Second + ahead), Up: up, Down: down}
}

func (b *bench) receive(list ...Receipt) ([]flow.Verdict, error) {
	b.pass(time.Second)
	if err := b.l.Receive("far", &Sheet{At: b.now.Add(ahead), Since: b.since.Add(ahead), Receipts: list}, b.now); err != nil {
		return nil, err
	}
	return b.l.Settle("far", b.since, b.now), nil
}

func (b *bench) received(list ...Receipt) []flow.Verdict {
	b.t.Helper()
	faults, err := b.receive(list...)
	if err != nil {
		b.t.Fatal(err)
	}
	return faults
}

// none fails where there are faults, and is checks the standing of the only connection.
func (b *bench) none(faults []flow.Verdict) {
	b.t.Helper()
	if len(faults) > 0 {
		b.t.Fatalf("a false alarm: %+v", faults[0])
	}
}

func (b *bench) is(want flow.Standing) {
	b.t.Helper()
	all := b.l.Verdicts(b.now)
	if len(all) != 1 || all[0].Standing != want {
		b.t.Fatalf("%+v, not %s", all, want)
	}
}

func (b *bench) one(faults []flow.Verdict, want flow.Standing) flow.Verdict {
	b.t.Helper()
	if len(faults) != 1 || faults[0].Standing != want || !want.Fault() {
		b.t.Fatalf("%+v, not one that %s", faults, want)
	}
	return faults[0]
}

func TestAgrees(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claim(b.account(1000, 5000)))
	b.is(flow.Pending)
	b.none(b.received(b.receipt(counted(1000, 5), counted(5000, 6))))
	b.is(flow.Agrees)
	// It goes on between an account and the receipts after it, and more so until the next account.
	b.none(b.claim(b.account(2000, 9000)))
	b.none(b.received(b.receipt(counted(90_000, 80), counted(1<<20, 900))))
	b.none(b.claim(b.account(120_000, 2<<20)))
	b.none(b.received(b.receipt(counted(120_000, 110), counted(2<<20, 1800))))
	b.is(flow.Agrees)
	b.none(b.claim(b.ended(b.account(120_000, 2<<20))))
	last := b.receipt(counted(120_000, 112), counted(2<<20, 1801))
	last.Final = true
	b.none(b.received(last))
	b.pass(time.Minute)
	b.none(b.claim())
	if all := b.l.Verdicts(b.now); len(all) > 0 || len(b.l.lines) > 0 {
		t.Errorf("still known: %+v", all)
	}
}

// TestLoss is about what is sent again: the gateway has seen it or not, and neither is a fault.
func TestLoss(t *testing.T) {
	for name, seen := range map[string]Count{"lost before the gateway": counted(100_000, 90), "behind it": counted(140_000, 130)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			a := b.account(100_000, 1<<20)
			a.Sent = 140_000
			b.none(b.claim(a))
			b.none(b.received(b.receipt(seen, counted(1<<20+1<<18, 900))))
			b.none(b.claim(a))
			b.is(flow.Agrees)
		})
	}
}

func TestDiffers(t *testing.T) {
	for name, count := range map[string][2]Count{
		"less up":   {counted(90_000, 90), counted(5000, 6)},
		"less down": {counted(100_000, 90), counted(3000, 6)},
		"more up":   {counted(110_000, 90), counted(5000, 6)},
		"more down": {counted(100_000, 90), counted(200_000, 150)},
		"nothing":   {{}, {}},
		"nonsense":  {{1, 1 << 63}, {1, 1 << 63}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			b.none(b.claim(b.account(100_000, 5000)))
			faults := b.received(b.receipt(count[0], count[1]))
			faults = append(faults, b.claim(b.account(100_000, 5000))...)
			v := b.one(faults, flow.Differs)
			if v.Account == nil || v.Receipt == nil || v.Receipt.Bytes != count[0].Bytes || v.Tunnel != "far" || v.Why == "" {
				t.Errorf("told as %+v", v)
			}
			b.none(b.received())
			b.none(b.claim(b.account(100_000, 5000))) // it is told once
			b.is(flow.Differs)
		})
	}
}

func TestAstray(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claim(b.account(10, 0)))
	b.none(b.received())
	b.is(flow.Pending)
	b.none(b.claim(b.ended(b.account(10, 0))))
	if v := b.one(b.received(), flow.Astray); v.Receipt != nil || v.Local != local {
		t.Errorf("told as %+v", v)
	}
}

// TestUnknown is about connections of before the gateway's beginning: it may have forgotten them.
func TestUnknown(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.since = b.now
	for range 3 {
		b.none(b.claim(b.account(10, 0)))
		b.none(b.received())
	}
	b.is(flow.Unsettled)
	late := b.receipt(counted(5, 1), Count{})
	late.Began = b.now.Add(ahead) // it was seen again under way
	b.pass(30 * time.Second)
	b.none(b.claim(b.account(1000, 0)))
	late.Began = b.now.Add(ahead)
	b.none(b.received(late))
	b.is(flow.Partial)
	b.none(b.claim(b.account(1000, 0)))
}

func TestUnclaimed(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claim())
	b.none(b.received(b.receipt(counted(0, 3), counted(0, 2)))) // a dial that failed or was given up
	b.none(b.claim())
	b.none(b.received(b.receipt(counted(300, 5), counted(0, 4))))
	if v := b.one(b.claim(), flow.Unclaimed); v.Account != nil || v.Receipt == nil || v.Local != local {
		t.Errorf("told as %+v", v)
	}
	b.none(b.claim())
	b.is(flow.Unclaimed)
}

// TestExcused are connections without an account that nobody can be blamed for.
func TestExcused(t *testing.T) {
	for name, excuse := range map[string]func(b *bench, r *Receipt){
		"of another namespace":            func(_ *bench, r *Receipt) { r.Lease = [16]byte{9} },
		"of before the interceptor":       func(b *bench, _ *Receipt) { b.inter = b.now },
		"of before the ledger":            func(b *bench, r *Receipt) { r.Began = b.l.begun.Add(ahead - time.Minute) },
		"of which the account was lost":   func(b *bench, _ *Receipt) { b.left, b.lost = 1, b.now },
		"which ended long ago":            func(b *bench, r *Receipt) { r.Final = true; b.pass(time.Hour) },
		"read after the accounts":         func(b *bench, _ *Receipt) { b.pass(-10 * time.Second) },
		"that the account comes for late": func(*bench, *Receipt) {},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			r := b.receipt(counted(300, 5), counted(0, 4))
			if name != "read after the accounts" {
				excuse(b, &r)
			}
			b.none(b.received(r))
			switch name {
			case "read after the accounts":
				excuse(b, &r)
				b.none(b.claim())
			case "that the account comes for late":
				b.none(b.claim(b.account(300, 0)))
				b.none(b.received())
				b.is(flow.Agrees)
			default:
				b.none(b.claim())
			}
		})
	}
}

// TestAgain has the same ends used twice.
func TestAgain(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	first := b.account(1000, 0)
	b.none(b.claim(first))
	r := b.receipt(counted(1000, 5), Count{})
	b.none(b.received(r))
	first = b.ended(first)
	b.pass(10 * time.Second)
	second := b.account(5, 0)
	second.ID, second.Began = 2, b.now
	b.none(b.claim(first, second))
	r2 := b.receipt(counted(5, 3), Count{})
	r2.Began = b.now.Add(ahead)
	r = b.receipt(counted(1000, 7), Count{})
	r.Final = true
	r.Serial, r2.Serial = r2.Serial, r.Serial
	b.none(b.received(r, r2))
	b.none(b.claim(second))
	for _, v := range b.l.Verdicts(b.now) {
		if v.Standing != flow.Agrees || v.Receipt.Bytes != map[uint64]uint64{1: 1000 + 7*52, 2: 5 + 3*52}[v.Account.ID] {
			t.Errorf("%+v of %+v, %+v", v, v.Account, v.Receipt)
		}
	}
}

// TestTakenBack is about receipts that contradict those of before.
func TestTakenBack(t *testing.T) {
	for name, change := range map[string]func(old, now *Receipt){
		"bytes":   func(_, now *Receipt) { now.Up.Bytes-- },
		"packets": func(_, now *Receipt) { now.Down.Packets-- },
		"serial":  func(old, now *Receipt) { now.Serial, now.Up.Bytes = old.Serial, now.Up.Bytes+1 },
		"before":  func(old, now *Receipt) { now.Serial, now.Up.Bytes = old.Serial-1, now.Up.Bytes+1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			b.none(b.claim(b.account(1000, 5000)))
			old := b.receipt(counted(1000, 5), counted(5000, 6))
			b.none(b.received(old))
			now := b.receipt(old.Up, old.Down)
			change(&old, &now)
			if _, err := b.receive(now); !errors.Is(err, ErrForged) || !strings.Contains(err.Error(), "takes back") {
				t.Fatal(err)
			}
			b.one(b.l.Break("far", "forged", b.now), flow.Forged)
			b.none(b.l.Break("far", "forged", b.now))
			b.is(flow.Forged)
		})
	}
	b := newBench(t)
	final := b.receipt(counted(1000, 5), counted(5000, 6))
	final.Final = true
	b.none(b.received(final))
	b.none(b.received(final)) // asked for again, it is the same
	if _, err := b.receive(b.receipt(counted(1000, 6), counted(5000, 6))); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
}

// TestOvertaken has two tunnels of one gateway asked at once: the answer that was made first comes last, and contradicts nothing.
func TestOvertaken(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claim(b.account(1000, 5000)))
	first := b.receipt(counted(900, 4), counted(4000, 5))
	second := b.receipt(counted(1000, 5), counted(5000, 6))
	b.none(b.received(second))
	b.none(b.received(first))
	b.is(flow.Agrees)
	second.Final = true
	second.Serial++
	b.none(b.received(second))
	b.none(b.received(first))
	if v := b.l.Verdicts(b.now)[0]; v.Standing != flow.Agrees || v.Receipt.Serial != second.Serial || !v.Receipt.Final {
		t.Errorf("%+v of %+v", v, v.Receipt)
	}
}

// TestAnother has the interceptor's place taken by another one, which knows nothing of the first one's connections.
func TestAnother(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	b.none(b.claim(b.account(1000, 0)))
	b.none(b.received(b.receipt(counted(1000, 5), Count{})))
	b.inter = b.now
	for range 4 {
		b.none(b.claim())
		b.none(b.received(b.receipt(counted(3000, 5+b.serial), Count{})))
	}
}

// TestSameEnds has an agent and a gateway tell of more connections with the same ends than there can be.
func TestSameEnds(t *testing.T) {
	b := newBench(t)
	b.pass(20 * time.Second)
	var many []flow.Account
	var counts []Receipt
	for i := range 5000 {
		a := b.account(1, 1)
		a.ID, a.Tunnel = uint64(i), strings.Repeat("x", maxName+1)
		many = append(many, a)
		r := b.receipt(counted(1, 1), Count{})
		r.Began = r.Began.Add(time.Duration(i))
		counts = append(counts, r)
	}
	b.none(b.claim(many...))
	b.none(b.received(counts...))
	b.none(b.claim(many...))
	if of := b.l.lines[ends{local, remote}]; len(of.entries) != maxSame || len(of.parts) != maxSame || of.entries[0].account.Tunnel != "" || b.l.Left() == 0 {
		t.Errorf("%d accounts and %d receipts are kept, of tunnel %q; %d are left out", len(of.entries), len(of.parts), of.entries[0].account.Tunnel, b.l.Left())
	}
}

// TestFreeExcuse has an agent say that it has lost accounts, and of none how many, or that it will have.
func TestFreeExcuse(t *testing.T) {
	for name, excuse := range map[string]func(b *bench){
		"of none":       func(b *bench) { b.lost = b.now.Add(1000 * time.Hour) },
		"in the future": func(b *bench) { b.left, b.lost = 1, b.now.Add(1000*time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass(20 * time.Second)
			excuse(b)
			b.none(b.claim())
			b.pass(time.Minute)
			r := b.receipt(counted(300, 5), counted(0, 4))
			r.Began = b.now.Add(ahead)
			b.none(b.received(r))
			b.one(b.claim(), flow.Unclaimed)
		})
	}
}

func TestBounds(t *testing.T) {
	b := newBench(t)
	var many []flow.Account
	for i := range maxLines + 10 {
		a := b.account(1, 1)
		a.ID, a.Remote = uint64(i), netip.AddrPortFrom(remote.Addr(), uint16(i))
		a.Local = netip.AddrPortFrom(local.Addr(), uint16(i>>16+1))
		many = append(many, a)
	}
	b.none(b.claim(many...))
	if len(b.l.lines) != maxLines || b.l.Left() != 10 {
		t.Errorf("%d lines, %d are left out", len(b.l.lines), b.l.Left())
	}
	b.none(b.received(b.receipt(counted(3000, 5), Count{})))
	b.none(b.claim(many...))
}
