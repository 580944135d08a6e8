package shim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

const (
	epochWait     = 30 * time.Second       // how long a call for the next epoch is held
	epochLate     = 3 * time.Second        // by how much its answer may be overdue
	epochRetry    = 200 * time.Millisecond // from one call to the next while the daemon is away
	epochNone     = 5 * time.Second        // the same while it has no rules
	epochTell     = 2 * time.Second        // how long an agent may take to forget
	graceUnknown  = 30 * time.Second       // until the daemon has said for how long decisions hold without it
	graceExceeded = 1                      // added to an epoch, one that no decision is of
)

// forgetter is an agent that keeps decisions. When Forget returns it uses none of before the epoch.
type forgetter interface {
	Forget(ctx context.Context, epoch uint64) error
}

// epochs keeps the agents of a shim to the rules in force: each new epoch is told to them at once, and when the daemon has been away for
// longer than its grace they forget what they know, so that nothing leaves.
type epochs struct {
	s      *Service
	begin  sync.Once
	ctx    context.Context // of the loop; ends with close
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	agents map[string]forgetter // by container; guarded by mu
	risks  map[string]int       // by which risk each decides; negative: not known; guarded by mu
	told   map[string]bool      // of which another risk would be told now; guarded by mu
}

func newEpochs(s *Service) *epochs {
	e := &epochs{s: s, agents: make(map[string]forgetter), risks: make(map[string]int)}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// join has an agent told from now on. One that starts has no decisions, and takes the epoch of the first that it gets.
func (e *epochs) join(container string, agent Agent) {
	f, ok := agent.(forgetter)
	if !ok {
		return
	}
	e.mu.Lock()
	e.agents[container] = f
	e.risks[container] = -1
	e.mu.Unlock()
	e.begin.Do(func() { e.done.Go(e.run) })
}

func (e *epochs) leave(container string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.agents, container)
	delete(e.risks, container)
}

// follows tells whether the daemon tells of another risk of a container: what depends on its risk holds until then.
func (e *epochs) follows(container string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told[container]
}

// asking returns the risks by which agents decide, as a call for the next epoch has them.
func (e *epochs) asking() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = make(map[string]bool, len(e.risks))
	for id := range e.risks {
		e.told[id] = true
	}
	return maps.Clone(e.risks)
}

// unheard has answers that depend on a risk hold for a moment only, until the daemon tells of it again.
func (e *epochs) unheard() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = nil
}

// learn notes risks and returns whose they are.
func (e *epochs) learn(risks map[string]int) (whose []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, risk := range risks {
		if _, ok := e.agents[id]; ok {
			e.risks[id] = risk
			whose = append(whose, id)
		}
	}
	return whose
}

func (e *epochs) close() {
	e.begin.Do(func() {}) // it does not begin any more
	e.cancel()
	e.done.Wait()
}

func (e *epochs) run() {
	var known uint64
	grace, lost, forgotten := graceUnknown, time.Time{}, false
	for e.ctx.Err() == nil {
		after := known
		if !lost.IsZero() {
			after = 0 // whether there is a daemon again is to be known at once
		}
		var r api.EpochResponse
		err := e.s.link.call(e.ctx, epochWait+epochLate, func(ctx context.Context, c *api.Client) (err error) {
			r, err = c.Epoch(ctx, api.EpochRequest{After: after, Wait: epochWait, Risks: e.asking()})
			return err
		})
		if err != nil {
			e.unheard()
		}
		switch {
		case err == nil:
			whose := e.learn(r.Risks)
			if r.Epoch != known || forgotten {
				e.tell(r.Epoch)
			} else if len(whose) > 0 {
				e.tell(r.Epoch, whose...) // what they decided by another risk
			}
			known, grace, lost, forgotten = r.Epoch, r.Grace, time.Time{}, false
		case errdefs.IsNotImplemented(err):
			pause(e.ctx, epochNone)
		case lost.IsZero():
			lost = time.Now()
			pause(e.ctx, epochRetry)
		case !forgotten && time.Since(lost) >= grace:
			e.tell(known + graceExceeded)
			forgotten = true
		default:
			pause(e.ctx, epochRetry)
		}
	}
}

// tell has agents, all unless some are named, forget decisions of before an epoch, and those of it that they have; it returns once they have.
func (e *epochs) tell(epoch uint64, only ...string) {
	ctx, cancel := context.WithTimeout(e.ctx, epochTell)
	defer cancel()
	var all sync.WaitGroup
	e.mu.Lock()
	agents := maps.Clone(e.agents)
	e.mu.Unlock()
	told := make(map[forgetter]bool) // containers of a pod share one
	for id, agent := range agents {
		if told[agent] || len(only) > 0 && !slices.Contains(only, id) {
			continue
		}
		told[agent] = true
		all.Go(func() {
			if err := agent.Forget(ctx, epoch); err != nil && e.ctx.Err() == nil {
				e.s.reporter.event(api.Event{Time: time.Now(), Kind: api.EventDegraded,
					Message: fmt.Sprintf("the agent of %s was not told of other egress rules: %v", id, err)})
			}
		})
	}
	all.Wait()
}
