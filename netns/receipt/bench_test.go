package receipt

import (
	"crypto/ed25519"
	"net/netip"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/test/processor"
)

// benched are so many connections as both sides count them.
func benched(n int) (accounts flow.Accounts, sheets []*Sheet) {
	start := time.Unix(1_800_000_000, 0)
	accounts = flow.Accounts{Since: start, At: start.Add(time.Hour)}
	for i := range n {
		if i%MaxReceipts == 0 {
			sheets = append(sheets, &Sheet{Client: "node-1", At: start.Add(time.Hour), Since: start, After: uint64(i)})
		}
		s := sheets[len(sheets)-1]
		port := netip.AddrPortFrom(local.Addr(), uint16(i))
		s.Receipts = append(s.Receipts, Receipt{Serial: uint64(i + 1), Lease: lease, Protocol: flow.TCP, Peer: port, Server: remote, Began: start.Add(time.Minute), Up: counted(1000, 5), Down: counted(5000, 6)})
		s.Last = uint64(i + 1)
		accounts.List = append(accounts.List, flow.Account{ID: uint64(i), Local: port, Remote: remote, Tunnel: "far", Began: start.Add(time.Minute), Sent: 1000, Acked: 1000, Received: 5000})
	}
	return accounts, sheets
}

// BenchmarkSign is what a gateway does to the receipts of 1,000 connections.
func BenchmarkSign(b *testing.B) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	_, sheets := benched(1000)
	processor.Time(b)
	for b.Loop() {
		for _, s := range sheets {
			s.Sign(key)
		}
	}
}

// BenchmarkRound is what tunneld does to 1,000 connections: signatures, and a round of a ledger that knows them.
func BenchmarkRound(b *testing.B) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	accounts, sheets := benched(1000)
	var signed []Signed
	for _, s := range sheets {
		signed = append(signed, s.Sign(key))
	}
	l := NewLedger(accounts.Since)
	l.Hold(lease, "far")
	now := accounts.At
	processor.Time(b)
	for b.Loop() {
		faults := l.Claim(&accounts, now)
		for i := range signed {
			s, err := signed[i].Open(public, Question{After: sheets[i].After})
			if err == nil {
				err = l.Receive("far", s, now)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if faults = append(faults, l.Settle("far", accounts.Since, now)...); len(faults) > 0 {
			b.Fatalf("%+v", faults[0])
		}
	}
}
