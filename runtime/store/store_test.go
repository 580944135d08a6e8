package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func replayed(t *testing.T, s *Store, stream Stream, from uint64) []Record {
	t.Helper()
	var out []Record
	if err := s.Replay(context.Background(), stream, from, func(r Record) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func bodies(records []Record) string {
	var out []string
	for _, r := range records {
		out = append(out, string(r.Body))
	}
	return strings.Join(out, " ")
}

func appendAll(t *testing.T, s *Store, stream Stream, subject string, bodies ...string) uint64 {
	t.Helper()
	var last uint64
	for _, b := range bodies {
		seq, err := s.Append(context.Background(), stream, subject, []byte(b))
		if err != nil {
			t.Fatal(err)
		}
		last = seq
	}
	return last
}

func TestAppendReplayReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if got := replayed(t, s, Runs, 0); got != nil {
		t.Fatalf("a new store has %v", got)
	}
	appendAll(t, s, Runs, "a", "1", "2")
	appendAll(t, s, Runs, "a hostile > subject.*", "3")
	appendAll(t, s, Events, "e", "x")
	var entries []Entry
	for i := range 2000 {
		entries = append(entries, Entry{"b", fmt.Appendf(nil, "n%d", i)})
	}
	last, err := s.AppendAll(context.Background(), Events, entries)
	if err != nil || last != 2001 {
		t.Fatalf("AppendAll = %d, %v", last, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got := bodies(replayed(t, s, Runs, 0)); got != "1 2 3" {
		t.Errorf("runs = %s", got)
	}
	if got := bodies(replayed(t, s, Runs, 3)); got != "3" {
		t.Errorf("runs from 3 = %s", got)
	}
	if got := replayed(t, s, Runs, 4); got != nil {
		t.Errorf("runs from 4 = %v", got)
	}
	if got := replayed(t, s, Events, 1); len(got) != 2001 || got[2000].Seq != 2001 || string(got[2000].Body) != "n1999" {
		t.Errorf("%d events", len(got))
	}
	got, err := s.Newest(context.Background(), Events, "", 2)
	if err != nil || bodies(got) != "n1998 n1999" {
		t.Errorf("tail = %s, %v", bodies(got), err)
	}
	got, err = s.Newest(context.Background(), Runs, "a", 1)
	if err != nil || bodies(got) != "2" || got[0].Subject != "a" {
		t.Errorf("newest of a = %v, %v", got, err)
	}
	if got := s.SetAside(); len(got) != 0 {
		t.Errorf("set aside: %v", got)
	}
}

func TestCheckpointsReplaceAndRemove(t *testing.T) {
	s := open(t, t.TempDir())
	appendAll(t, s, Checkpoints, "r1", "1", "2")
	appendAll(t, s, Checkpoints, "r2", "3")
	if got := bodies(replayed(t, s, Checkpoints, 0)); got != "2 3" {
		t.Errorf("checkpoints = %s", got)
	}
	if err := s.Remove(context.Background(), Checkpoints, "r1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(context.Background(), Checkpoints, "r2"); err != nil {
		t.Fatal(err)
	}
	if got := replayed(t, s, Checkpoints, 0); got != nil {
		t.Errorf("checkpoints = %v", got)
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(context.Background(), dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: %v", err)
	}
}
