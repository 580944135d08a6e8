package tunnel

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// ledger is a namespace's receipt.Ledger, to which all who ask its tunnels' gateways bring receipts.
type ledger struct {
	mu      sync.Mutex
	of      *receipt.Ledger // guarded by mu, as is all that follows
	owed    map[string]bool // tunnels that have, or had, receipts
	faults  []flow.Verdict  // found while another namespace's round went on; not told yet
	refused map[string]bool // tunnels whose sheets are no receipts, which was told
}

func newLedger(now time.Time) *ledger {
	return &ledger{of: receipt.NewLedger(now), owed: make(map[string]bool), refused: make(map[string]bool)}
}

// hold notes a lease of the namespace; "" is none.
func (l *ledger) hold(id, tunnel string) {
	var lease [16]byte
	if n, err := hex.Decode(lease[:], []byte(id)); err != nil || n != len(lease) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of.Hold(lease, tunnel)
	l.owed[tunnel] = true
}

// take brings receipts. Those that take others back break what goes by the tunnel.
func (l *ledger) take(s *receipt.Sheet, tunnel string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.of.Receive(tunnel, s, now); err != nil {
		l.breakLocked(tunnel, err, now)
	}
}

// breakLocked notes that a gateway's answer is no receipt, once until there is a good one.
func (l *ledger) breakLocked(tunnel string, why error, now time.Time) {
	l.faults = append(l.faults, l.of.Break(tunnel, why.Error(), now)...)
	if !l.refused[tunnel] {
		l.refused[tunnel] = true
		l.faults = append(l.faults, flow.Verdict{Tunnel: tunnel, Standing: flow.Forged, Why: why.Error()})
	}
}

// audit is how a gateway is asked for receipts.
type audit struct {
	mu    sync.Mutex
	begun time.Time         // when that began the last time; guarded by mu, as is all that follows
	after uint64            // the serial to ask with
	key   ed25519.PublicKey // whose receipts are believed; nil: nobody's yet
	since time.Time         // of the last sheet, on this node's clock
}

// receipts fetches what a gateway has counted, unless that was begun since this call was. It returns since when the gateway has
// missed nothing. What it answers that is no receipt is an error that wraps receipt.ErrForged; that there are more where none comes ends the asking.
func (f *distant) receipts(ctx context.Context, deliver func(*receipt.Sheet, time.Time)) (since time.Time, err error) {
	called := f.now()
	a := &f.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun.After(called) {
		return a.since, nil
	}
	begun := f.now()
	for more := true; more; {
		q := receipt.Question{After: a.after}
		_, _ = rand.Read(q.Nonce[:]) // it never fails
		signed, err := f.client.Receipts(ctx, q)
		if err != nil {
			return time.Time{}, err
		}
		s, err := f.believed(signed, q)
		if err != nil {
			return time.Time{}, err
		}
		if s.More && len(s.Receipts) == 0 {
			return time.Time{}, fmt.Errorf("gateway %s has more receipts than it gives, after serial %d none: %w", f.gateway.Address, q.After, errdefs.ErrUnavailable)
		}
		now := f.now()
		a.since = now.Add(-s.At.Sub(s.Since))
		deliver(s, now)
		a.after, more = s.Last, s.More
	}
	a.begun = begun
	return a.since, nil
}

// believed opens a sheet with the configured key, or the first that the gateway has shown. The audit's mu is held.
func (f *distant) believed(s *receipt.Signed, q receipt.Question) (*receipt.Sheet, error) {
	key := f.audit.key
	if key == nil && f.gateway.ReceiptKey != "" {
		key, _ = base64.StdEncoding.DecodeString(f.gateway.ReceiptKey) // the configuration was checked
	}
	if key == nil {
		key = s.Key
	}
	sheet, err := s.Open(key, q)
	if err == nil {
		f.audit.key = key
	}
	return sheet, err
}

// How much one answer has, so that it fits into a message: faults beyond that are told with the next one, else who makes many would hide
// those that matter; of verdicts the faults come first.
const (
	maxFaults   = 1024
	maxVerdicts = 2048
)

// Reconcile implements api.Tunnels.
func (s *Service) Reconcile(ctx context.Context, r api.ReconcileRequest) (out api.Reconciled, err error) {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return out, err
	}
	l := sp.ledger
	l.mu.Lock()
	l.faults = append(l.faults, l.of.Claim(&r.Accounts, s.now())...)
	tunnels := make([]string, 0, len(l.owed))
	for name := range l.owed {
		tunnels = append(tunnels, name)
	}
	l.mu.Unlock()
	out.Owed = len(tunnels) > 0
	if r.Accounts.More {
		return out, nil
	}
	slices.Sort(tunnels)
	for _, name := range tunnels {
		if err := s.settleReceipts(ctx, l, name); err != nil {
			out.Trouble = append(out.Trouble, err.Error())
		}
	}
	l.mu.Lock()
	n := min(len(l.faults), maxFaults)
	out.Faults, l.faults = l.faults[:n:n], l.faults[n:]
	out.Left = l.of.Left()
	if r.All {
		out.Verdicts = l.of.Verdicts(s.now())
	}
	l.mu.Unlock()
	if n := len(out.Verdicts); n > maxVerdicts {
		slices.SortStableFunc(out.Verdicts, func(a, b flow.Verdict) int { return -flag(a.Standing.Fault(), b.Standing.Fault()) })
		out.Unlisted, out.Verdicts = n-maxVerdicts, out.Verdicts[:maxVerdicts]
	}
	out.Without = sp.without()
	for i := range out.Faults {
		sp.punish(ctx, &out.Faults[i])
	}
	return out, nil
}

// settleReceipts fetches a tunnel's receipts, for all namespaces, and has one namespace's accounts compared with them.
func (s *Service) settleReceipts(ctx context.Context, l *ledger, tunnel string) error {
	f := s.provisioned.find(tunnel)
	if f == nil { // nobody has asked it yet, or it is configured no more
		return nil
	}
	since, err := f.receipts(ctx, func(sheet *receipt.Sheet, now time.Time) {
		for _, sp := range s.all() {
			sp.ledger.take(sheet, tunnel, now)
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, receipt.ErrForged):
		l.breakLocked(tunnel, fmt.Errorf("tunnel %s: %w", tunnel, err), s.now())
		return nil
	case errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err):
		return fmt.Errorf("tunnel %s: its gateway gives no receipts: %w", tunnel, err)
	case err != nil:
		return fmt.Errorf("tunnel %s: %w", tunnel, err)
	}
	delete(l.refused, tunnel)
	l.faults = append(l.faults, l.of.Settle(tunnel, since, s.now())...)
	return nil
}

// find is a tunnel's far end, nil if there is none.
func (p *provisioned) find(tunnel string) *distant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.far[tunnel]
}

// without are the namespace's tunnels whose far end gives no receipts.
func (sp *space) without() (names []string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, u := range sp.uses {
		if u.tunnel.Gateway.Address == "" && !slices.Contains(names, u.tunnel.Name) {
			names = append(names, u.tunnel.Name)
		}
	}
	slices.Sort(names)
	return names
}

// punish ends a connection with which something is wrong.
func (sp *space) punish(ctx context.Context, v *flow.Verdict) {
	if !v.Local.IsValid() || v.Protocol != flow.TCP && v.Protocol != flow.UDP {
		return
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, u := range sp.uses {
		if u.way == nil || u.tunnel.Name != v.Tunnel {
			continue
		}
		ended, err := sp.Cut(u.way, v.Protocol, v.Local, v.Remote)
		if err != nil {
			log.G(ctx).WithError(err).WithField("container", sp.saved.Container).Error("forefend tunneld: a connection whose receipts are wrong goes on")
		}
		v.Cut = v.Cut || ended
	}
}
