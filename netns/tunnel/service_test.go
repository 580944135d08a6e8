package tunnel

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// TestLockOrder has the state of a tunnel told, as who looks at a space does, while Guard has the service and waits for that space.
func TestLockOrder(t *testing.T) {
	s := &Service{pool: NewPool([]Tunnel{{Name: "one", Kind: WireGuard}}), now: time.Now, spaces: make(map[uint64]*space), downAt: make(map[string]time.Time)}
	s.mu.Lock()
	defer s.mu.Unlock()
	told := make(chan struct{})
	go func() {
		defer close(told)
		s.found("one", Down, errdefs.ErrUnavailable.Error())
	}()
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for the service, which waits for it")
	}
	if now := s.pool.List()[0]; now.Health != Down || s.downAt["one"].IsZero() {
		t.Errorf("%+v", now)
	}
}

// TestManyFaults has more go wrong at once than an answer has room for: all of it is told, one answer after another.
func TestManyFaults(t *testing.T) {
	now := time.Now()
	l := newLedger(now)
	s := &Service{pool: NewPool(nil), now: time.Now, provisioned: newProvisioned(), spaces: map[uint64]*space{1: {ledger: l}}}
	const many = 5000
	a := flow.Account{Local: netip.MustParseAddrPort("[fd08:aaaa:bbbb:cccc::1]:40000"), Remote: netip.MustParseAddrPort("[2001:db8:aaaa:bbbb::1]:443"), Tunnel: strings.Repeat("t", 100)}
	accounts := flow.Accounts{At: now}
	for i := range many {
		a.ID, a.Local = uint64(i), netip.AddrPortFrom(a.Local.Addr(), uint16(i))
		accounts.List = append(accounts.List, a)
		l.faults = append(l.faults, flow.Verdict{Local: a.Local, Remote: a.Remote, Tunnel: a.Tunnel, Standing: flow.Astray, Why: strings.Repeat("why", 20), Account: &a})
	}
	told := 0
	for range many {
		out, err := s.Reconcile(t.Context(), api.ReconcileRequest{Namespace: 1, Accounts: accounts, All: true})
		if err != nil {
			t.Fatal(err)
		}
		if body, err := json.Marshal(out); err != nil || len(body) > 4<<20 { // ttrpc's messages
			t.Fatalf("an answer of %d bytes, %v", len(body), err)
		}
		if len(out.Verdicts)+out.Unlisted != many {
			t.Fatalf("%d verdicts, %d not listed", len(out.Verdicts), out.Unlisted)
		}
		if told += len(out.Faults); len(out.Faults) == 0 {
			break
		}
	}
	if told != many {
		t.Errorf("%d of %d faults were told", told, many)
	}
}
