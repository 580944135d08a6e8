package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Record is one record of a stream.
type Record struct {
	Seq     uint64
	Subject string // as given to Append, or its token when that was not a plain short name
	Time    time.Time
	Body    []byte // the reader's to keep
}

const (
	chunkRecords = 512     // asked of the engine at a time
	chunkBytes   = 1 << 20 // so that a chunk in flight stays small
	chunkWait    = 30 * time.Second
)

// errEnd says that a stream has nothing at or after a number, or nothing readable.
var errEnd = errors.New("no record from there on")

// request is the engine's direct get request.
type request struct {
	Seq      uint64 `json:"seq,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// Replay calls f for each record of a stream from number from on, in order, and
// stops at the first error f returns. Memory is bounded whatever the stream's size.
// Damaged records are set aside and skipped.
func (s *Store) Replay(ctx context.Context, stream Stream, from uint64, f func(Record) error) error {
	state, err := s.State(ctx, stream)
	if err != nil {
		return err
	}
	whole, reported, read := from <= state.First, len(s.SetAside()), uint64(0)
	count := func(r Record) error {
		read++
		return f(r)
	}
	from = max(from, state.First, 1)
	for from <= state.Last {
		next, err := s.chunk(ctx, stream, request{Seq: from, Batch: chunkRecords, MaxBytes: chunkBytes}, count)
		if errors.Is(err, errEnd) {
			next, err = s.skipDamage(ctx, stream, from, state.Last)
		}
		if err != nil {
			return fmt.Errorf("replay %s: %w", stream, err)
		}
		from = next
	}
	if whole && read < state.Records && len(s.SetAside()) == reported {
		s.report(fmt.Sprintf("stream %s: %d of the %d records that the engine counts cannot be read", stream, state.Records-read, state.Records))
	}
	return nil
}

// Newest returns the last n records of a subject, oldest first; of the
// whole stream when subject is empty.
func (s *Store) Newest(ctx context.Context, stream Stream, subject string, n int) ([]Record, error) {
	if n <= 0 {
		return nil, nil
	}
	if subject == "" {
		return s.tail(ctx, stream, n)
	}
	var out []Record
	keep := func(r Record) error {
		if len(out) == n {
			out = append(out[:0], out[1:]...)
		}
		out = append(out, r)
		return nil
	}
	for from := uint64(1); ; {
		next, err := s.chunk(ctx, stream, request{Seq: from, NextFor: stream.subject(subject), Batch: chunkRecords, MaxBytes: chunkBytes}, keep)
		if errors.Is(err, errEnd) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("newest records of %s: %w", stream, err)
		}
		from = next
	}
}

// tail reads the last n records of a stream. Numbers have gaps where records
// were replaced or removed, so it looks further back until it has enough.
func (s *Store) tail(ctx context.Context, stream Stream, n int) ([]Record, error) {
	state, err := s.State(ctx, stream)
	if err != nil {
		return nil, err
	}
	for span := uint64(n); ; span *= 4 {
		from := state.First
		if state.Last > span && state.Last-span+1 > from {
			from = state.Last - span + 1
		}
		var out []Record
		err := s.Replay(ctx, stream, from, func(r Record) error {
			if len(out) == n {
				out = append(out[:0], out[1:]...)
			}
			out = append(out, r)
			return nil
		})
		if err != nil || len(out) == n || from <= state.First {
			return out, err
		}
	}
}

// chunk asks the engine once, gives what is undamaged to f, and returns the
// number to go on from. It returns errEnd when the engine had nothing.
func (s *Store) chunk(ctx context.Context, stream Stream, r request, f func(Record) error) (next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, chunkWait)
	defer cancel()
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	inbox := s.engine.conn.NewRespInbox()
	sub, err := s.engine.conn.SubscribeSync(inbox)
	if err != nil {
		return 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone then
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return 0, err
	}
	if err := s.engine.conn.PublishRequest("$JS.API.DIRECT.GET."+string(stream), inbox, body); err != nil {
		return 0, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return 0, fmt.Errorf("read from record %d: %w", r.Seq, err)
		}
		if done, err := endOfChunk(m, next); done {
			return next, err
		}
		seq, err := s.take(stream, m, f)
		if err != nil {
			return 0, err
		}
		next = seq + 1
	}
}

// endOfChunk tells the engine's status messages from records.
func endOfChunk(m *nats.Msg, next uint64) (bool, error) {
	switch status := m.Header.Get("Status"); {
	case status == "" && m.Header.Get(nats.JSSequence) != "":
		return false, nil
	case status == "204" && next > 0:
		return true, nil
	case status == "204", status == "404":
		return true, errEnd
	default:
		return true, fmt.Errorf("the engine answers %q %q", status, m.Header.Get("Description"))
	}
}

// take gives one record to f, or sets it aside.
func (s *Store) take(stream Stream, m *nats.Msg, f func(Record) error) (uint64, error) {
	seq, err := strconv.ParseUint(m.Header.Get(nats.JSSequence), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("record without number: %w", err)
	}
	subject := m.Header.Get(nats.JSSubject)
	body, err := unseal(subject, m.Data)
	if err != nil {
		s.discard(stream, seq, m.Data, err)
		return seq, nil
	}
	at, _ := time.Parse(time.RFC3339Nano, m.Header.Get(nats.JSTimeStamp)) //nolint:errcheck // zero then
	return seq, f(Record{Seq: seq, Subject: strings.TrimPrefix(subject, stream.prefix()), Time: at, Body: body})
}

// skipDamage finds where reading can go on after the engine found nothing
// at from although the stream goes on to last: records were removed, or the
// engine cannot read them. It looks at the next numbers one by one, then in
// growing steps.
func (s *Store) skipDamage(ctx context.Context, stream Stream, from, last uint64) (uint64, error) {
	const oneByOne = 64
	step := uint64(1)
	for at := from + 1; at <= last; at += step {
		if at-from > oneByOne {
			step *= 2
		}
		_, err := s.chunk(ctx, stream, request{Seq: at, Batch: 1}, func(Record) error { return nil })
		if err == nil {
			s.report(fmt.Sprintf("stream %s: records %d to %d cannot be read", stream, from, at-1))
			return at, nil
		}
		if !errors.Is(err, errEnd) {
			return 0, err
		}
	}
	return last + 1, nil
}

func (s *Store) deleteRecord(stream Stream, seq uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), chunkWait)
	defer cancel()
	return s.streams[stream].DeleteMsg(ctx, seq)
}
