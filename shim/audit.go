package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// accountant is an agent that counts connections.
type accountant interface {
	Accounts(ctx context.Context, next, live uint64) (json.RawMessage, error)
}

const (
	roundDeadline = 10 * time.Second
	lastDeadline  = time.Second // of the rounds at a container's end
	maxPages      = 64          // of accounts in a round
	maxTold       = 8           // events of a round; the rest is a number
)

// audit compares what a container's agent counts with its gateways' receipts, from the first tunnel on that it asks for (docs/decisions/0075).
type audit struct {
	once sync.Once
	halt context.CancelFunc // of the rounds, nil: there are none; set by once
	work sync.WaitGroup

	round sync.Mutex // held while there is one
	next  uint64     // what to ask the agent with; guarded by round
	of    time.Time  // the agent that next is of; guarded by round
	left  bool       // that there is too much to compare was told; guarded by round

	mu    sync.Mutex
	began time.Time // when the agent's process did; guarded by mu
}

// start notes that another process is the agent.
func (u *audit) start(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.began = now
}

// begin has rounds begin, once.
func (u *audit) begin(a *seat) {
	u.once.Do(func() {
		if every := a.s.cfg.Verify; every > 0 {
			var ctx context.Context
			ctx, u.halt = context.WithCancel(a.ctx)
			u.work.Go(func() { a.rounds(ctx, every) })
		}
	})
}

func (a *seat) rounds(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for troubled := false; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		round, cancel := context.WithTimeout(ctx, roundDeadline)
		r, err := a.reconcile(round, false)
		cancel()
		if err == nil && len(r.Trouble) > 0 {
			err = fmt.Errorf("%s", r.Trouble[0])
		}
		if err != nil && !troubled && ctx.Err() == nil {
			log.L.WithError(err).WithField("id", a.c.id.Container).Warn("forefend: what its agent counts cannot be compared with its gateways' receipts for the time being")
		}
		troubled = err != nil
	}
}

// finish compares what is left when the container has ended. Two rounds tell what one cannot.
func (u *audit) finish(a *seat) {
	u.once.Do(func() {}) // no rounds begin any more
	if u.halt == nil {
		return
	}
	u.halt()
	u.work.Wait()
	ctx, cancel := context.WithTimeout(a.ctx, lastDeadline)
	defer cancel()
	if r, err := a.reconcile(ctx, false); err == nil && r.Owed {
		_, _ = a.reconcile(ctx, false) // an error says that tunneld has taken the namespace away meanwhile
	}
}

// verify compares everything, for people.
func (a *seat) verify(ctx context.Context) (api.Reconciled, error) {
	first, err := a.reconcile(ctx, false)
	if err != nil {
		return first, err
	}
	out, err := a.reconcile(ctx, true)
	out.Faults = append(first.Faults, out.Faults...)
	return out, err
}

// reconcile has all that the agent counts compared, and tells of what is wrong. When accounts were read is the shim's word, and since when
// there are any, not the agent's.
func (a *seat) reconcile(ctx context.Context, all bool) (out api.Reconciled, err error) {
	u := &a.audit
	u.round.Lock()
	defer u.round.Unlock()
	a.mu.Lock()
	agent, namespace := a.agent, a.guarded
	a.mu.Unlock()
	counts, ok := agent.(accountant)
	if !ok || namespace == 0 {
		return out, nil
	}
	u.mu.Lock()
	began := u.began
	u.mu.Unlock()
	if !began.Equal(u.of) {
		u.next, u.of = 0, began
	}
	at := time.Now()
	for page, live := 0, uint64(0); page < maxPages; page++ {
		body, err := counts.Accounts(ctx, u.next, live)
		if err != nil {
			return out, err
		}
		var told flow.Accounts
		if err := json.Unmarshal(body, &told); err != nil {
			return out, fmt.Errorf("the agent's accounts make no sense: %w", err)
		}
		told.At, told.Since = at, began
		told.More = told.More && page < maxPages-1
		if out, err = a.s.cfg.Egress.Reconcile(ctx, api.ReconcileRequest{Namespace: namespace, Accounts: told, All: all}); err != nil {
			return out, err
		}
		u.next, live = told.Next, told.Live
		if !told.More {
			break
		}
	}
	a.accuse(&out)
	return out, nil
}

// accuse tells of faults. In a pod they count against the container whose connection it is, by the agent's word, or against all where none is
// named: one that nobody claims, what a gateway forged, datagrams. The round is held.
func (a *seat) accuse(r *api.Reconciled) {
	for i := range r.Faults {
		v := &r.Faults[i]
		whose := ""
		if v.Account != nil {
			whose = v.Account.Container
		}
		for _, c := range a.asking(whose) {
			c.faults.add(workload.ReceiptFault + string(v.Standing))
			c.urgent.call()
			if i < maxTold {
				a.reportOf(c, api.EventReceipt, accusation(v), evidenceOf(v))
			}
		}
	}
	if n := len(r.Faults); n > maxTold {
		a.report(api.EventReceipt, fmt.Sprintf("as much is wrong with %d more connections", n-maxTold), nil)
	}
	if r.Left > 0 && !a.audit.left {
		a.audit.left = true
		a.report(api.EventDegraded, fmt.Sprintf("it has more connections than are compared with its gateways' receipts: %d were left out so far", r.Left), nil)
	}
}

// accusation says what is wrong with a connection, with both counts.
func accusation(v *flow.Verdict) string {
	text := v.Why
	if subject := v.Subject(); subject != "" {
		text = fmt.Sprintf("%s by tunnel %s: %s", subject, v.Tunnel, v.Why)
	}
	switch c := v.Account; {
	case c == nil:
	case v.Connected():
		text += fmt.Sprintf("; the agent counts %d bytes sent, %d of them acknowledged, and %d received", c.Sent, c.Acked, c.Received)
	default:
		text += fmt.Sprintf("; the agent counts %d bytes sent and %d received", c.Sent, c.Received)
	}
	if c := v.Receipt; c != nil {
		text += fmt.Sprintf("; receipt %d of the gateway counts %d bytes in %d packets, and %d in %d back", c.Serial, c.Bytes, c.Packets, c.BytesBack, c.PacketsBack)
	}
	if v.Cut {
		text += "; it was ended"
	}
	return text
}

func evidenceOf(v *flow.Verdict) map[string]string {
	f := map[string]string{"standing": string(v.Standing), "tunnel": v.Tunnel}
	if v.Remote.IsValid() {
		f["remote"], f["cut"] = v.Remote.String(), strconv.FormatBool(v.Cut)
	}
	if v.Local.IsValid() {
		f["local"] = v.Local.String()
	}
	return f
}
