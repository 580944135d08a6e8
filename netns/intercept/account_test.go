package intercept

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// TestAccounts has the kernel's counts of connections to servers told while they live and once after their end.
func TestAccounts(t *testing.T) {
	to := echo(t, "s")
	r := newRig(t, to, Limits{})
	r.dialer.gates = true
	before := time.Now()
	c := r.client()
	c.want("GET /a HTTP/1.1\r\nHost: s\r\n\r\n", "GET", 200, "s GET /a ")
	var live flow.Accounts
	eventually(t, func() error { // the last acknowledgement may be late
		live = r.Accounts(0, 0, 10)
		if len(live.List) != 1 || live.List[0].Acked < 24 || live.List[0].Received < 40 {
			return fmt.Errorf("%+v", live)
		}
		return nil
	})
	one := live.List[0]
	if flows := r.Flows(); len(flows) != 1 || flows[0].Local != one.Local || one.Remote.String() != to || !one.Local.IsValid() {
		t.Errorf("%+v of %+v", one, flows)
	}
	if one.Sent > one.Acked+one.Open || one.Began.Before(before) || !one.Ended.IsZero() || live.Next != 0 || live.More || live.Since.After(before) {
		t.Errorf("%+v in %+v", one, live)
	}
	_ = c.Close()
	eventually(t, func() error {
		if n := len(r.Flows()); n > 0 {
			return fmt.Errorf("%d flows", n)
		}
		return nil
	})
	past := r.Accounts(0, 0, 10)
	if len(past.List) != 1 || past.List[0].ID != one.ID || past.List[0].Ended.IsZero() || past.List[0].Acked < one.Acked || past.Next != 1 {
		t.Errorf("ended: %+v", past)
	}
	if again := r.Accounts(0, 0, 10); len(again.List) != 1 {
		t.Errorf("the answer was lost: %+v", again)
	}
	if none := r.Accounts(past.Next, 0, 10); len(none.List) != 0 || none.Next != 1 {
		t.Errorf("told twice: %+v", none)
	}
	if none := r.Accounts(99, 0, 10); len(none.List) != 0 || none.Next != 1 { // what another interceptor had counted
		t.Errorf("%+v", none)
	}
}

// TestAccountsByPages has many told a few at a time.
func TestAccountsByPages(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	r.dialer.gates = true
	for range 3 { // that end
		c := r.client()
		c.want("GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n", "GET", 200, "")
		c.rest()
	}
	eventually(t, func() error {
		if n := r.Accounts(0, 0, 100).Next; n != 3 {
			return fmt.Errorf("%d have ended", n)
		}
		return nil
	})
	for range 4 { // and that live
		r.client().want("GET / HTTP/1.1\r\nHost: s\r\n\r\n", "GET", 200, "")
	}
	seen := make(map[uint64]bool)
	pages := 0
	for next, live, more := uint64(0), uint64(0), true; more; pages++ {
		got := r.Accounts(next, live, 2)
		for _, a := range got.List {
			if seen[a.ID] {
				t.Errorf("%d is told twice", a.ID)
			}
			seen[a.ID] = true
		}
		next, live, more = got.Next, got.Live, got.More
	}
	if len(seen) != 7 || pages != 4 {
		t.Errorf("%d accounts in %d pages", len(seen), pages)
	}
}

// TestAccountsBounds ends more connections than are kept.
func TestAccountsBounds(t *testing.T) {
	var a accounts
	for i := range maxEnded + 10 {
		a.ended = append(a.ended[max(0, len(a.ended)-maxEnded+1):], flow.Account{ID: uint64(i), Ended: time.Unix(int64(i), 0)})
	}
	r := newRig(t, echo(t, "s"), Limits{})
	r.dialer.gates = true
	r.accounts.mu.Lock()
	r.accounts.ended, r.accounts.count = a.ended, maxEnded+10
	r.accounts.mu.Unlock()
	c := r.client()
	c.want("GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n", "GET", 200, "")
	c.rest()
	eventually(t, func() error {
		if got := r.Accounts(0, 0, 1); got.Left != 1 || got.Lost.IsZero() {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
}

// answering is a Packets whose sockets lead to a server that answers nothing and something in turn, by a tunnel.
type answering struct {
	to       netip.AddrPort
	receipts bool
}

func (a answering) DialPacket(context.Context, flow.Context, flow.Decision) (Socket, error) {
	s, err := socketTo(a.to)
	s.Tunnel, s.Receipts = "far", a.receipts
	return s, err
}

// TestAccountsOfQueries has bytes of datagrams counted for each server, before they leave and whatever comes back.
func TestAccountsOfQueries(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
	by, _ := packets(t)
	server, at := packets(t)
	_, from := packets(t)
	ask := func(receipts bool) {
		q := datagram{e: r.Engine, by: by, over: answering{at, receipts}, from: from, to: netip.MustParseAddrPort("192.0.2.53:53"), b: question(t)}
		done := make(chan struct{})
		go func() { defer close(done); q.serve() }()
		b := make([]byte, 512)
		n, whose, err := server.ReadFromUDPAddrPort(b)
		must(t, err)
		if counted := r.Accounts(0, 0, 10).Datagrams; receipts && (len(counted) != 1 || counted[0].Sent == 0) {
			t.Errorf("when it has left: %+v", counted)
		}
		b[2] |= 0x80 // an answer
		for _, answer := range [][]byte{[]byte("forged"), b[:n]} {
			_, err = server.WriteToUDPAddrPort(answer, whose)
			must(t, err)
		}
		<-done
	}
	ask(false)
	if counted := r.Accounts(0, 0, 10).Datagrams; counted == nil || len(counted) > 0 {
		t.Errorf("by a tunnel without receipts: %+v", counted)
	}
	ask(true)
	ask(true)
	n := uint64(len(question(t)))
	dialled := netip.MustParseAddrPort("192.0.2.53:53")
	if counted := r.Accounts(0, 0, 10).Datagrams; len(counted) != 1 || counted[0] != (flow.Datagrams{Remote: dialled, Tunnel: "far", Sent: 2 * n, Received: 2 * (n + 6)}) {
		t.Errorf("%+v", counted)
	}
	for i := range maxServers + 4 {
		r.accounts.with(netip.AddrPortFrom(dialled.Addr(), uint16(i)), "far").sent.Add(1)
	}
	if got := r.Accounts(0, 0, 10); len(got.Datagrams) != maxServers || got.Left != 4 || got.Lost.IsZero() { // one port was counted before
		t.Errorf("%d servers, %d are left out since %s", len(got.Datagrams), got.Left, got.Lost)
	}
}

// TestNoAccounts is about connections whose far end gives no receipts.
func TestNoAccounts(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	r.client().want("GET / HTTP/1.1\r\nHost: s\r\n\r\n", "GET", 200, "")
	if got := r.Accounts(0, 0, 10); len(got.List) != 0 {
		t.Errorf("%+v", got)
	}
	if flows := r.Flows(); len(flows) != 1 || !strings.HasPrefix(flows[0].Local.String(), "127.0.0.1:") {
		t.Errorf("%+v", flows)
	}
}
