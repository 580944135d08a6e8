package central

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

const (
	// maxFlying is how many messages may be under way. A question that finds fewer goes off at once and alone; others wait for the next
	// that comes back and leave together.
	maxFlying = 4
	// maxWaiting is how many questions may wait; one more is not asked.
	maxWaiting = 4096
)

// ask is a question that somebody waits for.
type ask struct {
	ctx      context.Context
	question api.Question
	answer   chan answer // has room for one
}

type answer struct {
	decision flow.Decision
	err      error
}

// batches sends questions in as few messages as time allows.
type batches struct {
	send   func(context.Context, []api.Question) ([]flow.Decision, error)
	within time.Duration // how long a message of several may take

	mu      sync.Mutex
	waiting []*ask // guarded by mu
	flying  int    // messages under way; guarded by mu
	flights sync.WaitGroup
}

// ask waits for the answer, within ctx.
func (b *batches) ask(ctx context.Context, q api.Question) (flow.Decision, error) {
	if err := check(&q); err != nil {
		return flow.Decision{}, err
	}
	b.mu.Lock()
	if b.flying < maxFlying { // nobody waits then
		b.flying++
		b.mu.Unlock()
		defer b.landed()
		got, err := b.send(ctx, []api.Question{q})
		if err != nil {
			return flow.Decision{}, err
		}
		return got[0], nil
	}
	if len(b.waiting) >= maxWaiting {
		b.mu.Unlock()
		return flow.Decision{}, fmt.Errorf("%d questions wait for the central decision point already: %w", maxWaiting, errdefs.ErrResourceExhausted)
	}
	a := &ask{ctx, q, make(chan answer, 1)}
	b.waiting = append(b.waiting, a)
	b.mu.Unlock()
	select {
	case r := <-a.answer:
		return r.decision, r.err
	case <-ctx.Done():
		return flow.Decision{}, ctx.Err()
	}
}

// landed ends a message; those who wait leave with the next, which takes its place.
func (b *batches) landed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if group := b.groupLocked(); group != nil {
		b.flights.Go(func() {
			b.fly(group)
			b.landed()
		})
		return
	}
	b.flying--
}

// groupLocked takes those of whom somebody still waits, as many as fit into a message; nil: there are none.
func (b *batches) groupLocked() (group []*ask) {
	n, bytes := 0, 0
	for _, a := range b.waiting {
		if bytes += size(&a.question); len(group) == api.MaxQuestions || len(group) > 0 && bytes > maxBatch {
			break
		}
		if n++; a.ctx.Err() == nil {
			group = append(group, a)
		}
	}
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	return group
}

func (b *batches) fly(group []*ask) {
	ctx, cancel := context.WithTimeout(context.Background(), b.within)
	defer cancel()
	questions := make([]api.Question, len(group))
	for i, a := range group {
		questions[i] = a.question
	}
	got, err := b.send(ctx, questions)
	for i, a := range group {
		if err != nil {
			a.answer <- answer{err: err}
			continue
		}
		a.answer <- answer{decision: got[i]}
	}
}

// close waits for messages under way. Nobody asks any more.
func (b *batches) close() { b.flights.Wait() }
