package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Entry is a record to append.
type Entry struct {
	Subject string // any string; names the workload, run or container
	Body    []byte
}

// Append adds a record to a stream and returns its number. It is on disk
// when Append returns without error.
func (s *Store) Append(ctx context.Context, stream Stream, subject string, body []byte) (uint64, error) {
	data, err := seal(stream.subject(subject), body)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	reply, err := s.engine.conn.RequestWithContext(ctx, stream.subject(subject), data)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	return acknowledged(stream, reply)
}

// AppendAll adds records in order and returns the number of the last one. They
// travel together, which saves waiting between them. It returns when ctx ends,
// also if the store is closed meanwhile. After an error some of them may have been added.
func (s *Store) AppendAll(ctx context.Context, stream Stream, entries []Entry) (last uint64, err error) {
	if len(entries) == 1 { // the connection has a subscription for single answers
		return s.Append(ctx, stream, entries[0].Subject, entries[0].Body)
	}
	inbox := s.engine.conn.NewRespInbox()
	replies := make(chan *nats.Msg, len(entries)) // a subscription's own queue would have room for 64 Ki
	sub, err := s.engine.conn.ChanSubscribe(inbox, replies)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone then
	for i := range entries {
		data, err := seal(stream.subject(entries[i].Subject), entries[i].Body)
		if err == nil {
			err = s.engine.conn.PublishRequest(stream.subject(entries[i].Subject), inbox, data)
		}
		if err != nil {
			return last, fmt.Errorf("append record %d of %d to %s: %w", i+1, len(entries), stream, err)
		}
	}
	for i := range entries {
		var err error
		select {
		case reply, open := <-replies:
			if !open {
				return last, fmt.Errorf("append to %s: the store was closed", stream)
			}
			last, err = acknowledged(stream, reply)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return last, fmt.Errorf("append record %d of %d to %s: %w", i+1, len(entries), stream, err)
		}
	}
	return last, nil
}

// acknowledged reads the engine's answer to one append.
func acknowledged(stream Stream, m *nats.Msg) (uint64, error) {
	var ack struct {
		Seq   uint64 `json:"seq"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("append to %s: no acknowledgement: %q: %w", stream, m.Header.Get("Status"), err)
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("append to %s: %s", stream, ack.Error.Description)
	}
	return ack.Seq, nil
}

// Remove deletes every record of a subject.
func (s *Store) Remove(ctx context.Context, stream Stream, subject string) error {
	st := s.streams[stream]
	if err := st.Purge(ctx, purgeSubject(stream.subject(subject))); err != nil {
		return fmt.Errorf("remove %s from %s: %w", subject, stream, err)
	}
	return nil
}
