package shim

import (
	"context"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
)

// exits passes events on and remembers which containers' exits went out.
// Upstream wakes who waits for an exit before it queues the event of it, so that
// under load a quick client's Delete can overtake it; Delete here waits for it.
type exits struct {
	shim.Publisher

	mu        sync.Mutex
	published map[string]chan struct{} // by container id, closed when its exit is out; guarded by mu
}

func newExits(p shim.Publisher) *exits {
	return &exits{Publisher: p, published: make(map[string]chan struct{})}
}

// expect begins to look out for a container's exit. It is called before the
// container can have one.
func (e *exits) expect(container string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.published[container] = make(chan struct{})
}

// forget ends what expect began.
func (e *exits) forget(container string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.published, container)
}

// await waits, within ctx, until the container's exit is out.
func (e *exits) await(ctx context.Context, container string) {
	e.mu.Lock()
	out := e.published[container]
	e.mu.Unlock()
	if out == nil {
		return
	}
	select {
	case <-out:
	case <-ctx.Done():
	}
}

// Publish implements events.Publisher.
func (e *exits) Publish(ctx context.Context, topic string, event events.Event) error {
	err := e.Publisher.Publish(ctx, topic, event)
	if exit, ok := event.(*eventsapi.TaskExit); ok && exit.ID == exit.ContainerID {
		e.mu.Lock()
		if out := e.published[exit.ContainerID]; out != nil {
			close(out)
			delete(e.published, exit.ContainerID)
		}
		e.mu.Unlock()
	}
	return err
}
