package intercept

import (
	"fmt"
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
