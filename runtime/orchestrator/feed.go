package orchestrator

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of the events kept in memory and of one answer.
const (
	maxEvents    = 4096
	defaultLimit = 1000
	maxWait      = time.Minute
	maxPage      = 512 << 10 // bytes of text in one answer, give or take an event
	maxMessage   = 2048
	maxFields    = 16
	maxField     = 256 // bytes of a field's value, of its name, and of every other word
)

// feed is the newest events in order, with readers that wait for more.
type feed struct {
	mu     sync.Mutex
	ring   []api.Event   // the event numbered n is at n % maxEvents; guarded by mu
	oldest uint64        // number of the oldest event kept; guarded by mu
	next   uint64        // number of the next event; guarded by mu
	more   chan struct{} // closed and replaced at each event; guarded by mu
	ended  bool          // nobody is to wait any more; guarded by mu
}

// newFeed continues after the events of an earlier life, which may be slightly
// out of order: they were journaled by whoever was first.
func newFeed(recent []api.Event) *feed {
	f := &feed{ring: make([]api.Event, maxEvents), oldest: 1, next: 1, more: make(chan struct{})}
	recent = slices.Clone(recent)
	slices.SortFunc(recent, func(a, b api.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, e := range recent {
		if e.Seq+1 == f.next {
			continue // there twice
		}
		if e.Seq != f.next { // a gap: what came before it cannot be counted on
			f.oldest, f.next = e.Seq, e.Seq
		}
		f.keepLocked(e)
	}
	return f
}

// publish numbers e, bounds its text and hands it to the readers.
func (f *feed) publish(e api.Event) api.Event {
	e = bounded(e)
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Seq = f.next
	f.keepLocked(e)
	if !f.ended {
		close(f.more)
		f.more = make(chan struct{})
	}
	return e
}

// told reports whether an event of the same run, kind and revision is among those that are kept.
func (f *feed) told(e api.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for seq := f.oldest; seq < f.next; seq++ {
		if old := &f.ring[seq%maxEvents]; old.Run == e.Run && old.Kind == e.Kind && old.Fields["revision"] == e.Fields["revision"] {
			return true
		}
	}
	return false
}

// end lets every reader go that waits, or will.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended = true
		close(f.more)
	}
}

// bounded is e with as much text as an event may have: what a shim reports is
// in part what a container chose.
func bounded(e api.Event) api.Event {
	e.Message, e.Kind, e.Run = shortened(e.Message, maxMessage), shortened(e.Kind, maxField), shortened(e.Run, maxField)
	if e.ID.Validate() != nil {
		e.ID = workload.ID{}
	}
	fields := make(map[string]string, min(len(e.Fields), maxFields))
	for _, name := range slices.Sorted(maps.Keys(e.Fields)) {
		if len(fields) < maxFields {
			fields[shortened(name, maxField)] = shortened(e.Fields[name], maxField)
		}
	}
	if e.Fields != nil {
		e.Fields = fields
	}
	return e
}

func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// keepLocked stores the event numbered next. f.mu is held, or f is not shared yet.
func (f *feed) keepLocked(e api.Event) {
	f.ring[e.Seq%maxEvents] = e
	f.next = e.Seq + 1
	if f.next-f.oldest > maxEvents {
		f.oldest = f.next - maxEvents
	}
}

// read answers an EventsRequest.
func (f *feed) read(ctx context.Context, req api.EventsRequest) api.EventsResponse {
	limit := req.Limit
	if limit == 0 || limit > defaultLimit {
		limit = defaultLimit
	}
	ctx, cancel := context.WithTimeout(ctx, min(req.Wait, maxWait))
	defer cancel()
	after := req.After
	for {
		f.mu.Lock()
		if req.Tail {
			after, req.Tail = f.tailLocked(limit, req.ID), false
		}
		resp := f.sinceLocked(after, limit, req.ID)
		more, ended := f.more, f.ended
		f.mu.Unlock()
		if len(resp.Events) > 0 || req.Wait == 0 || ended {
			return resp
		}
		after = resp.Next
		select {
		case <-more:
		case <-ctx.Done():
			return resp
		}
	}
}

func (f *feed) sinceLocked(after uint64, limit int, id workload.ID) api.EventsResponse {
	// After may be higher: that of a reader of an earlier life, whose last events were lost with it.
	resp := api.EventsResponse{Next: f.next - 1}
	from := after + 1
	if from < f.oldest {
		resp.Lost, from = f.oldest-from, f.oldest
	}
	size := 0
	for seq := from; seq < f.next; seq++ {
		e := f.ring[seq%maxEvents]
		if id != (workload.ID{}) && e.ID != id {
			continue
		}
		if len(resp.Events) == limit || size > maxPage {
			resp.Next = resp.Events[len(resp.Events)-1].Seq
			return resp
		}
		resp.Events = append(resp.Events, e)
		size += textOf(e)
	}
	return resp
}

// textOf is about how many bytes an event takes in an answer.
func textOf(e api.Event) int {
	n := 200 + len(e.Message)
	for name, value := range e.Fields {
		n += len(name) + len(value)
	}
	return n
}

// tailLocked is the After with which the newest limit events follow.
func (f *feed) tailLocked(limit int, id workload.ID) uint64 {
	seq := f.next
	for found := 0; seq > f.oldest && found < limit; {
		seq--
		if e := f.ring[seq%maxEvents]; id == (workload.ID{}) || e.ID == id {
			found++
		}
	}
	return seq - 1
}
