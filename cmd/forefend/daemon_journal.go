package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

const (
	journalQueue = 4096     // entries that may wait for the disk
	journalBytes = 16 << 20 // and their bytes
	journalBatch = 256
	// Entries come in bursts, a few for each container that starts or ends. What comes within journalBurst of one
	// another is written together, and the store is woken no more often than every journalPace: a busy node's journal
	// costs it a fraction then. A daemon that is killed loses no more than the entries of that long.
	journalBurst = 5 * time.Millisecond
	journalPace  = 200 * time.Millisecond
	recentEvents = 2000 // read back at start
)

// journal writes decisions and events to the store in batches, each record
// fsynced, without holding up who appends. What finds the queue full is dropped,
// counted for doctor and told once in a while to the log: the audit must never stop
// containers from starting.
type journal struct {
	store *store.Store
	queue chan *entry
	done  chan struct{}
	lost  func() // called for each entry that was not kept

	mu     sync.RWMutex // queue is closed under it, and sent to under its read half
	closed bool         // guarded by mu

	newest sync.Map // decisions that wait for the disk: subject to entry, the newest of each

	waiting atomic.Int64  // bytes in queue
	missing atomic.Uint64 // entries dropped or not written
	told    atomic.Int64  // when the log was last told, Unix seconds
}

// losses says how many entries are missing, for doctor.
func (j *journal) losses() []string {
	if n := j.missing.Load(); n > 0 {
		return []string{fmt.Sprintf("%d decisions or events were not journaled: more came than the disk takes", n)}
	}
	return nil
}

// entry is what waits for the disk: an event's body, or a decision that write will encode, so that the shim that asked does not wait
// for that.
type entry struct {
	stream   store.Stream
	decision *api.Decision // nil: Body is there. Nobody writes to what it points to.
	size     int64
	store.Entry
}

func newJournal(ctx context.Context, s *store.Store, lost func()) *journal {
	j := &journal{store: s, queue: make(chan *entry, journalQueue), done: make(chan struct{}), lost: lost}
	go j.write(context.WithoutCancel(ctx))
	return j
}

// close writes what waits and ends the journal. What calls under way append after it is lost.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	close(j.queue)
	j.mu.Unlock()
	<-j.done
}

// AppendDecision implements orchestrator.Journal.
func (j *journal) AppendDecision(d api.Decision) {
	e := &entry{stream: store.Decisions, decision: &d, size: int64(d.Size()), Entry: store.Entry{Subject: d.Facts.ID.String()}}
	j.append(e)
}

// AppendEvent implements orchestrator.Journal.
func (j *journal) AppendEvent(event api.Event) {
	body, err := json.Marshal(event)
	if err != nil {
		j.unwritable(event, err)
		return
	}
	j.append(&entry{stream: store.Events, size: int64(len(body)), Entry: store.Entry{Subject: "node", Body: body}})
}

func (j *journal) unwritable(v any, err error) {
	log.L.WithError(err).Errorf("forefend daemon: %T not journaled", v)
	j.lose(1)
}

func (j *journal) append(e *entry) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.waiting.Add(e.size) <= journalBytes && !j.closed {
		if e.decision != nil { // before it is queued: its removal must come later
			j.newest.Store(e.Subject, e)
		}
		select {
		case j.queue <- e:
			return
		default:
		}
		j.newest.CompareAndDelete(e.Subject, e)
	}
	j.waiting.Add(-e.size)
	j.lose(1)
}

// lose counts entries and tells the log, at most once in ten seconds.
func (j *journal) lose(n int) {
	lost := j.missing.Add(uint64(n))
	for range n {
		j.lost()
	}
	const seldom = 10
	if now, told := time.Now().Unix(), j.told.Load(); now-told >= seldom && j.told.CompareAndSwap(told, now) {
		log.L.WithField("lost", lost).Error("forefend daemon: the journal cannot keep up, entries are lost")
	}
}

// write empties the queue, batch by batch.
func (j *journal) write(ctx context.Context) {
	defer close(j.done)
	var last time.Time
	for first := range j.queue {
		batch := j.gather(first, max(journalBurst, journalPace-time.Since(last)))
		last = time.Now()
		for _, stream := range []store.Stream{store.Events, store.Decisions} { // a decision that is there has told of its changes
			j.keep(ctx, stream, batch[stream])
		}
	}
}

// gather collects what comes within wait after first, by stream.
func (j *journal) gather(first *entry, wait time.Duration) map[store.Stream][]*entry {
	batch := map[store.Stream][]*entry{first.stream: {first}}
	soon := time.NewTimer(wait)
	defer soon.Stop()
	for n := 1; n < journalBatch; n++ {
		select {
		case e, ok := <-j.queue:
			if !ok {
				return batch
			}
			batch[e.stream] = append(batch[e.stream], e)
		case <-soon.C:
			return batch
		}
	}
	return batch
}

// keep writes entries of one stream.
func (j *journal) keep(ctx context.Context, stream store.Stream, entries []*entry) {
	if len(entries) == 0 {
		return
	}
	records := make([]store.Entry, 0, len(entries))
	for _, e := range entries {
		if e.decision != nil {
			var err error
			if e.Body, err = json.Marshal(e.decision); err != nil {
				j.unwritable(e.decision, err)
				continue
			}
		}
		records = append(records, e.Entry)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := j.store.AppendAll(ctx, stream, records); err != nil {
		log.L.WithError(err).Error("forefend daemon: journal entries lost")
		j.lose(len(records))
	}
	for _, e := range entries {
		j.waiting.Add(-e.size)
		j.newest.CompareAndDelete(e.Subject, e)
	}
}

// Decision implements orchestrator.Journal.
func (j *journal) Decision(ctx context.Context, id workload.ID) (d api.Decision, err error) {
	if e, waits := j.newest.Load(id.String()); waits {
		return *e.(*entry).decision, nil
	}
	records, err := j.store.Newest(ctx, store.Decisions, id.String(), 1)
	if err != nil {
		return d, err
	}
	if len(records) == 0 {
		return d, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	if err := json.Unmarshal(records[0].Body, &d); err != nil {
		j.store.SetAsideRecord(store.Decisions, records[0], err)
		return d, fmt.Errorf("the last decision about %s is damaged: %w", id, err)
	}
	return d, nil
}

// recent reads back the newest events of the daemon's earlier lives.
func (j *journal) recent(ctx context.Context) ([]api.Event, error) {
	records, err := j.store.Newest(ctx, store.Events, "", recentEvents)
	if err != nil {
		return nil, fmt.Errorf("read back events: %w", err)
	}
	events := make([]api.Event, 0, len(records))
	for _, r := range records {
		var e api.Event
		if err := json.Unmarshal(r.Body, &e); err != nil {
			j.store.SetAsideRecord(store.Events, r, err)
			continue
		}
		events = append(events, e)
	}
	return events, nil
}
