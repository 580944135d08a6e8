package tunnel

import (
	"context"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// maxWayChangesWait bounds how long a call of WayChanges is held.
const maxWayChangesWait = time.Minute

// wayChanges number what changes where namespaces are led, and know which interceptors have heard of it: that a tunnel is drained or given
// back, which is for every namespace, and that one was found down, which is for those that have it.
type wayChanges struct {
	mu      sync.Mutex
	last    uint64        // number of the last change; it only grows, also from one process to the next; guarded by mu
	all     uint64        // of the last one that is for every namespace; guarded by mu
	changed chan struct{} // closed with the next change; guarded by mu
	heard   chan struct{} // closed when another interceptor knows of one, or a namespace has ended; guarded by mu
}

// numbers are those of changes that a namespace has to do with; 0: none.
type numbers struct {
	own   uint64 // the last one that was not for every namespace
	told  uint64 // the last one that its shim was told of
	knows uint64 // the last one that its interceptor knows of
}

func newWayChanges() *wayChanges {
	begun := uint64(time.Now().UnixNano())
	return &wayChanges{last: begun, all: begun, changed: make(chan struct{}), heard: make(chan struct{})}
}

// everywhere numbers another change for every namespace, and tells who waits for one.
func (w *wayChanges) everywhere() (number uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = w.nextLocked()
	return w.all
}

// in numbers another change for these namespaces, and tells who waits for one.
func (w *wayChanges) in(spaces []*space) {
	w.mu.Lock()
	defer w.mu.Unlock()
	number := w.nextLocked()
	for _, sp := range spaces {
		sp.numbers.own = number
	}
}

// nextLocked is the number of another change, which who waits for one sees once mu, that is held, is not any more.
func (w *wayChanges) nextLocked() uint64 {
	w.last++
	close(w.changed)
	w.changed = make(chan struct{})
	return w.last
}

// know notes the last change that a namespace's interceptor knows of, if this process has told of it. It returns the last one that there is
// for the namespace, of which it is told if that is another one, and what is closed with the next.
func (w *wayChanges) know(sp *space, number uint64) (last uint64, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := &sp.numbers
	if number == n.told && number > n.knows {
		n.knows = number
		w.wakeLocked()
	}
	if last = max(w.all, n.own); last != number {
		n.told = last
	}
	return last, w.changed
}

// hear returns what is closed when interceptors know of more than now, or fewer are left that do not.
func (w *wayChanges) hear() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard
}

// behind are the spaces whose interceptors do not know of a change yet.
func (w *wayChanges) behind(all []*space, number uint64) []*space {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(all, func(sp *space) bool { return sp.numbers.knows >= number })
}

// ended notes that a space has.
func (w *wayChanges) ended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakeLocked()
}

// wakeLocked has those look again who wait for interceptors. mu is held.
func (w *wayChanges) wakeLocked() {
	close(w.heard)
	w.heard = make(chan struct{})
}

// WayChanges implements api.Tunnels.
func (s *Service) WayChanges(ctx context.Context, r api.WayChangesRequest) (api.WayChangesResponse, error) {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return api.WayChangesResponse{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(max(r.Wait, 0), maxWayChangesWait))
	defer cancel()
	for {
		last, changed := s.changes.know(sp, r.After)
		if last != r.After {
			return api.WayChangesResponse{Last: last}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.WayChangesResponse{Last: last}, nil
		}
	}
}
