package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

const (
	journalQueue = 4096 // entries that may wait for the disk
	journalBatch = 256
	recentEvents = 2000 // read back at start
)

// journal writes decisions and events to the store in batches, each record
// fsynced, without holding up who appends. What finds the queue full is dropped and
// counted in the log: the audit must never stop containers from starting.
type journal struct {
	store *store.Store
	queue chan entry
	done  chan struct{}
	lost  func() // called for each entry that was not kept
}

type entry struct {
	stream store.Stream
	store.Entry
}

func newJournal(ctx context.Context, s *store.Store, lost func()) *journal {
	j := &journal{store: s, queue: make(chan entry, journalQueue), done: make(chan struct{}), lost: lost}
	go j.write(context.WithoutCancel(ctx))
	return j
}

// close writes what waits and ends the journal. Nothing may be appended after.
func (j *journal) close() {
	close(j.queue)
	<-j.done
}

// AppendDecision implements orchestrator.Journal.
func (j *journal) AppendDecision(d api.Decision) {
	j.append(store.Decisions, d.Facts.ID.String(), d)
}

// AppendEvent implements orchestrator.Journal.
func (j *journal) AppendEvent(e api.Event) { j.append(store.Events, "node", e) }

func (j *journal) append(stream store.Stream, subject string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		log.L.WithError(err).Errorf("forefend daemon: %T not journaled", v)
		j.lost()
		return
	}
	select {
	case j.queue <- entry{stream, store.Entry{Subject: subject, Body: body}}:
	default:
		log.L.WithField("stream", stream).Error("forefend daemon: the journal's queue is full, an entry is lost")
		j.lost()
	}
}

// write empties the queue, batch by batch.
func (j *journal) write(ctx context.Context) {
	defer close(j.done)
	for e := range j.queue {
		batch := map[store.Stream][]store.Entry{e.stream: {e.Entry}}
		for n := 1; n < journalBatch; n++ {
			select {
			case e, ok := <-j.queue:
				if ok {
					batch[e.stream] = append(batch[e.stream], e.Entry)
					continue
				}
			default:
			}
			break
		}
		for stream, entries := range batch {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			if _, err := j.store.AppendAll(ctx, stream, entries); err != nil {
				log.L.WithError(err).Error("forefend daemon: journal entries lost")
				for range entries {
					j.lost()
				}
			}
			cancel()
		}
	}
}

// Decision implements orchestrator.Journal.
func (j *journal) Decision(ctx context.Context, id workload.ID) (d api.Decision, err error) {
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
