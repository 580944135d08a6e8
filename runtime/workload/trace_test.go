package workload

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestTraceKeepsOrder(t *testing.T) {
	want := []Call{
		{0, 4_000_000_000, "execve", 1},
		{20 * time.Millisecond, 7, "connect", 3},
		{20 * time.Millisecond, 7, "execve", 1},
		{5 * time.Hour, 8, "openat", 100_000},
	}
	var trace Trace
	var previous Call
	for _, c := range want {
		trace.Add(previous, c)
		previous = c
	}
	got, err := trace.Calls()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if len(trace.Names) != 3 {
		t.Errorf("names %v", trace.Names)
	}
	if got, err := (*Trace)(nil).Calls(); got != nil || err != nil {
		t.Errorf("of no trace: %v, %v", got, err)
	}
}

func TestTraceRefuses(t *testing.T) {
	long := make([]byte, 0, 4*(MaxTrace+1))
	for range MaxTrace + 1 {
		long = append(long, 0, 0, 0, 1)
	}
	for name, packed := range map[string][]byte{
		"half a call":       {0, 0, 0},
		"an unknown name":   {0, 0, 1, 1},
		"a negative thread": {0, 1, 0, 1},
		"no count":          {0, 0, 0, 0},
		"too many":          long,
	} {
		trace := Trace{Names: []string{"x"}, Packed: packed}
		if _, err := trace.Calls(); !errors.Is(err, ErrBadTrace) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTraceCalls(f *testing.F) {
	f.Add([]byte{1, 2, 0, 1, 1, 0, 1, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 1})
	f.Fuzz(func(t *testing.T, packed []byte) {
		trace := Trace{Names: []string{"a", "b"}, Packed: packed}
		calls, err := trace.Calls()
		if err != nil {
			return
		}
		var again Trace
		var previous Call
		for _, c := range calls {
			if c.At < previous.At || c.Count < 1 {
				t.Fatalf("%+v after %+v", c, previous)
			}
			again.Add(previous, c)
			previous = c
		}
		if got, err := again.Calls(); err != nil || !reflect.DeepEqual(got, calls) {
			t.Fatalf("packed again: %v, %v; want %v", got, err, calls)
		}
	})
}
