package agent

import (
	"context"
	"sync"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
)

// queue keeps the last events for the shim, which asks for them by number.
type queue struct {
	mu     sync.Mutex
	events []api.Event   // guarded by mu
	next   uint64        // of the next event; the first is 1; guarded by mu
	lost   uint64        // dropped since the last answer; guarded by mu
	more   chan struct{} // closed when there is another event; guarded by mu
}

func newQueue() *queue { return &queue{next: 1, more: make(chan struct{})} }

// add appends an event; when MaxEvents wait the oldest goes.
func (q *queue) add(e api.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.Seq, e.Time = q.next, time.Now()
	q.next++
	if len(q.events) == api.MaxEvents {
		copy(q.events, q.events[1:])
		q.events = q.events[:len(q.events)-1]
		q.lost++
	}
	q.events = append(q.events, e)
	close(q.more)
	q.more = make(chan struct{})
}

// after returns the events after a number. It waits within ctx, and for as long as wait, until there are some. What was
// asked for once is not kept.
func (q *queue) after(ctx context.Context, number uint64, wait time.Duration) api.EventsResponse {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		q.mu.Lock()
		for len(q.events) > 0 && q.events[0].Seq <= number {
			q.events = q.events[1:]
		}
		if len(q.events) > 0 || wait <= 0 {
			r := api.EventsResponse{Events: append([]api.Event(nil), q.events...), Next: q.next - 1, Lost: q.lost}
			q.lost = 0
			q.mu.Unlock()
			return r
		}
		more := q.more
		q.mu.Unlock()
		select {
		case <-more:
		case <-timer.C:
			wait = 0
		case <-ctx.Done():
			wait = 0
		}
	}
}

// count is how many events there were.
func (q *queue) count() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next - 1
}
