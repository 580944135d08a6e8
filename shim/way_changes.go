package shim

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

const (
	waysTell  = 2 * time.Second        // how long an agent may take to forget ways
	waysRetry = 200 * time.Millisecond // from one try to the next while tunneld or the agent is away
	waysNone  = 5 * time.Second        // the same where tunneld does not know of it
)

// waysForgetter is an agent that keeps tunnels that it was told. When ForgetWays returns, nothing begins by them.
type waysForgetter interface {
	ForgetWays(ctx context.Context) error
}

// wayChanges keep an agent to what tunneld says of tunnels that are drained or found down (docs/decisions/0088 and 0091). Whoever drains one
// waits until it knows.
type wayChanges struct{ work sync.WaitGroup }

// begin follows tunneld until the seat gives up.
func (w *wayChanges) begin(a *seat, agent Agent) {
	if f, ok := agent.(waysForgetter); ok {
		w.work.Go(func() { a.followWays(f) })
	}
}

func (a *seat) followWays(agent waysForgetter) {
	var known uint64
	for troubled := false; a.ctx.Err() == nil; {
		a.mu.Lock()
		namespace := a.guarded
		a.mu.Unlock()
		last, err := a.s.cfg.Egress.WayChanges(a.ctx, namespace, known)
		if err == nil && last != known {
			if err = forgetWays(a.ctx, agent); err == nil {
				known = last
			}
		}
		if err == nil {
			troubled = false
			continue
		}
		if !troubled && a.ctx.Err() == nil {
			troubled = true
			log.L.WithError(err).WithField("id", a.c.id.Container).Info("forefend: its agent does not hear at once of tunnels that are drained or down")
		}
		if errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err) {
			pause(a.ctx, waysNone)
		} else {
			pause(a.ctx, waysRetry)
		}
	}
}

func forgetWays(ctx context.Context, agent waysForgetter) error {
	ctx, cancel := context.WithTimeout(ctx, waysTell)
	defer cancel()
	return agent.ForgetWays(ctx)
}

// pause waits, until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
