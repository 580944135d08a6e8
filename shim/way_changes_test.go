package shim

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/workload"
)

// changing is a tunneld that answers as the test says.
type changing struct {
	Egress
	asked  chan uint64 // after which change
	answer chan any    // the last one, or an error
}

func (d *changing) WayChanges(ctx context.Context, namespace, after uint64) (uint64, error) {
	if namespace != 42 {
		return 0, errors.New("another namespace")
	}
	select {
	case d.asked <- after:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case a := <-d.answer:
		if err, ok := a.(error); ok {
			return 0, err
		}
		return a.(uint64), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// forgetting is an agent that forgets ways, or fails.
type forgetting struct {
	remembering
	forgot int
	failed error
}

func (f *forgetting) ForgetWays(context.Context) error {
	f.forgot++
	return f.failed
}

// TestFollowWays: a change that tunneld tells of is said to be known once the agent has forgotten its ways, and not before.
func TestFollowWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunneld, agent := &changing{asked: make(chan uint64), answer: make(chan any)}, &forgetting{}
		a := &seat{s: &Service{cfg: Config{Egress: tunneld}}, c: &container{id: workload.ID{Namespace: "ns", Container: "c"}}, guarded: 42}
		a.ctx, a.giveUp = context.WithCancel(context.Background())
		a.changes.begin(a, agent)
		away := errors.New("away")
		begun := time.Now()
		for _, step := range []struct {
			after  uint64
			failed error // of the agent
			answer any
			forgot int // by the time of the next question
			pause  time.Duration
		}{
			{0, nil, uint64(7), 1, 0},
			{7, nil, uint64(7), 1, 0},
			{7, away, uint64(8), 2, waysRetry}, // the agent does not answer
			{7, nil, uint64(8), 3, 0},
			{8, nil, away, 3, waysRetry}, // tunneld does not
			{8, nil, errdefs.ErrNotImplemented, 3, waysNone},
			{8, nil, errdefs.ErrNotFound, 3, waysNone},
			{8, nil, uint64(3), 4, 0}, // of another tunneld, whose clock is behind
		} {
			if after := <-tunneld.asked; after != step.after {
				t.Errorf("%+v: asked after %d", step, after)
			}
			asked := time.Now()
			agent.failed = step.failed
			tunneld.answer <- step.answer
			synctest.Wait()
			time.Sleep(step.pause)
			synctest.Wait()
			if agent.forgot != step.forgot || time.Since(asked) != step.pause {
				t.Errorf("%+v: the agent has forgotten %d times", step, agent.forgot)
			}
		}
		if after := <-tunneld.asked; after != 3 {
			t.Errorf("asked after %d", after)
		}
		if took := time.Since(begun); took != 2*waysRetry+2*waysNone {
			t.Errorf("it took %s", took)
		}
		a.giveUp()
		a.changes.work.Wait()
	})
}
