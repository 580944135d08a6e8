package agent

import (
	"context"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/sockets"
)

// How often the listening sockets are looked at: soon after the start, when servers begin to listen, then less and less
// often. There is nothing to be told by in the kernel; a look costs some 50 µs of CPU.
const (
	firstLook = 100 * time.Millisecond
	maxWatch  = 10 * time.Second
	// maxListening bounds how many are compared and told of: each is memory here and an event there.
	maxListening = 512
)

// socketKey is what makes a listening socket one.
type socketKey struct {
	protocol, local string
	inode           uint32
}

// watcher tells of listening sockets that come and go.
type watcher struct {
	queue *queue
	known map[socketKey]api.Socket
	every chan time.Duration // another longest interval; 0: none
}

func newWatcher(q *queue) *watcher {
	return &watcher{queue: q, known: make(map[socketKey]api.Socket), every: make(chan time.Duration)}
}

// run looks until ctx ends. Errors of the kernel's list end it: what once worked works.
func (w *watcher) run(ctx context.Context, table *sockets.Table) {
	longest, delay := maxWatch, firstLook
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case longest = <-w.every:
			if delay = firstLook; longest == 0 {
				timer.Stop()
				continue
			}
		case <-timer.C:
			changed, err := w.look(table)
			if err != nil {
				return
			}
			if delay = min(2*delay, longest); changed {
				delay = firstLook
			}
		}
		timer.Reset(delay)
	}
}

// look compares what listens with what did.
func (w *watcher) look(table *sockets.Table) (changed bool, err error) {
	now := make(map[socketKey]api.Socket, len(w.known))
	err = table.Listening(func(s api.Socket) bool {
		now[socketKey{s.Protocol, s.Local, s.Inode}] = s
		return len(now) < maxListening
	})
	if err != nil {
		return false, err
	}
	for k, s := range now {
		if _, ok := w.known[k]; !ok {
			w.queue.add(api.Event{Kind: api.EventListening, Socket: &s})
			changed = true
		}
	}
	for k, s := range w.known {
		if _, ok := now[k]; !ok {
			w.queue.add(api.Event{Kind: api.EventClosed, Socket: &s})
			changed = true
		}
	}
	w.known = now
	return changed, nil
}
