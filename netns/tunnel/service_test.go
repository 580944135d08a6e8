package tunnel

import (
	"context"
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
	s := &Service{pool: NewPool([]Tunnel{{Name: "one", Kind: WireGuard}}), now: time.Now, spaces: make(map[uint64]*space)}
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
	if now := s.pool.List()[0]; now.Health != Down || s.downs.at["one"].IsZero() {
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

// TestRestoreTaken: who has a slot by now does not get the lease that another had in it before.
func TestRestoreTaken(t *testing.T) {
	s := &Service{pool: NewPool([]Tunnel{{Name: "far", Kind: WireGuard, Slots: make([]Slot, 1), Gateway: Gateway{Address: "https://gw.test:1"}}}), provisioned: newProvisioned()}
	first := savedLease{Lease: Lease{"far", 0, Holder{Namespace: 1}}, Provision: "first"}
	second := savedLease{Lease: Lease{"far", 0, Holder{Namespace: 2}}, Provision: "second"}
	gone := savedLease{Lease: Lease{"gone", 0, Holder{Namespace: 1}}, Provision: "third"}
	if _, err := s.restore(first); err != nil {
		t.Fatal(err)
	}
	if _, err := s.restore(second); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a slot twice: %v", err)
	}
	if _, err := s.restore(gone); !errdefs.IsNotFound(err) {
		t.Errorf("a tunnel that is gone: %v", err)
	}
	if got := s.provisioned.before; len(got) != 1 || got[place{"far", 0}] != "first" {
		t.Errorf("leases of before: %v", got)
	}
	s.provisioned.forgo("far", 0, "second")
	if len(s.provisioned.before) != 1 {
		t.Error("another's lease was forgone")
	}
	if s.provisioned.forgo("far", 0, "first"); len(s.provisioned.before) != 0 {
		t.Error("a lease that nobody took up is the next one's")
	}
}

// TestNameOutside: while the name of a tunnel's next endpoint is looked up nobody else waits, and a tunnel that is gone by then is left alone.
func TestNameOutside(t *testing.T) {
	asked, answer := make(chan string), make(chan netip.AddrPort)
	s := &Service{pool: NewPool([]Tunnel{{Name: "one", Kind: WireGuard}}), now: time.Now,
		resolve: func(_ context.Context, endpoint string) (netip.AddrPort, error) {
			asked <- endpoint
			return <-answer, nil
		}}
	u := &use{lease: Lease{Tunnel: "one"}, tunnel: Tunnel{Name: "one", Kind: WireGuard, Encryption: flow.Standard, Endpoints: []string{"a.test:1", "b.test:1"}}}
	sp := &space{uses: []*use{u}}
	told := make(chan error, 1)
	go func() {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		told <- s.unanswered(t.Context(), sp, u)
	}()
	if got := <-asked; got != "b.test:1" {
		t.Errorf("%s was looked up", got)
	}
	select {
	case err := <-told:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the namespace's lock is held while a name is looked up")
	}
	sp.mu.Lock()
	err := s.unanswered(t.Context(), sp, u) // the last one, and that is being looked up still
	sp.uses = nil
	sp.mu.Unlock()
	if !errdefs.IsUnavailable(err) || s.pool.List()[0].Health != Down {
		t.Errorf("no endpoint answers: %v", err)
	}
	answer <- netip.MustParseAddrPort("192.0.2.1:1") // it has no device that could be moved
	s.moving.Wait()
	if u.moving {
		t.Error("it is looked up for ever")
	}
}
