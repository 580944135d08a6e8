package gateway

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// turns bound how many requests of one client are worked on at once. The others of it wait, and hold neither a message nor an answer meanwhile.
type turns struct {
	most int // of one client

	mu sync.Mutex
	of map[string]*turn // guarded by mu: of clients that have requests
}

// turn is one client's.
type turn struct {
	taken    chan struct{}
	requests int // that have one or wait for one; guarded by turns.mu
}

// take waits for a client's turn until ctx ends. done is called once the request is answered. The error wraps errdefs.ErrResourceExhausted.
func (t *turns) take(ctx context.Context, client string) (done func(), err error) {
	one := t.join(client)
	select {
	case one.taken <- struct{}{}:
		return func() {
			<-one.taken
			t.leave(client)
		}, nil
	case <-ctx.Done():
		t.leave(client)
		return nil, fmt.Errorf("%.253q has %d requests under way, and none was answered in time: %w", client, t.most, errdefs.ErrResourceExhausted)
	}
}

func (t *turns) join(client string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[client]
	if one == nil {
		one = &turn{taken: make(chan struct{}, t.most)}
		t.of[client] = one
	}
	one.requests++
	return one
}

func (t *turns) leave(client string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[client]
	if one.requests--; one.requests == 0 {
		delete(t.of, client)
	}
}
