package history

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Runs without an end make room: the one that has been silent for longest is counted, and counts once.
func TestOpenRunsAreBounded(t *testing.T) {
	f := newFixture(t)
	const more = 50
	checkpoint := func(n int) workload.Observation {
		o := observe(program(n%100), n, 1<<20, "openat")
		o.Run, o.Final, o.Ended = fmt.Sprint("open", n), false, time.Time{}
		return o
	}
	for n := range maxOpen + more {
		f.now = epoch.Add(time.Duration(n) * time.Millisecond)
		if o := checkpoint(n); n < maxOpen { // the store's part of it would take a minute
			f.model.checkpoint(&o, f.now)
		} else {
			f.record(o)
		}
	}
	if s := f.Stats(); s.Open != maxOpen || s.Runs != more {
		t.Errorf("%d runs go on and %d are counted", s.Open, s.Runs)
	}
	if f.model.open["open0"] != nil || f.model.open[fmt.Sprint("open", maxOpen+more-1)] == nil {
		t.Error("the wrong ones were given up")
	}
	f.record(checkpoint(0)) // it goes on after all
	if s := f.Stats(); s.Open != maxOpen || s.Runs != more {
		t.Errorf("it counts again: %d runs go on and %d are counted", s.Open, s.Runs)
	}
	f.reopen()
	if s := f.Stats(); s.Open > maxOpen || f.model.openBytes > maxOpenBytes {
		t.Errorf("%d runs go on after a restart", s.Open)
	}
}

// Whatever happens to a model, what it says it takes is what its parts take.
func TestBytesAreCounted(t *testing.T) {
	m := newModel(0.99, 60)
	m.maxBytes = 40_000
	for n := range 2000 {
		o := observe(program(n%150), n, 1<<20, "openat", fmt.Sprint("call", n%300), fmt.Sprint("call", n%7))
		o.Destinations = map[string]uint64{fmt.Sprint("tcp/192.0.2.1:", n%90): 1}
		if n%3 == 0 {
			o.Final, o.Ended = false, time.Time{}
			m.checkpoint(&o, o.Started)
		} else {
			end(m, o)
		}
		if n%10 == 0 {
			end(m, o) // again: amended
		}
		bytes, open := 0, 0
		for _, p := range m.summaries.packed {
			bytes += p.size()
		}
		for _, r := range m.open {
			open += r.size
		}
		if bytes != m.summaries.bytes || open != m.openBytes {
			t.Fatalf("after %d runs: %d and %d bytes, counted %d and %d", n, bytes, open, m.summaries.bytes, m.openBytes)
		}
		if m.summaries.bytes > m.maxBytes+10_000 { // checkpoints and amendments shrink nothing; the next end does
			t.Fatalf("after %d runs: %d bytes of %d", n, m.summaries.bytes, m.maxBytes)
		}
	}
	again, err := readModel(strings.NewReader(string(encoded(t, m))), 0.99, 60)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, p := range again.summaries.packed {
		sum += p.size()
	}
	if sum != again.summaries.bytes {
		t.Errorf("read again: %d bytes, counted %d", sum, again.summaries.bytes)
	}
}

func TestLongNamesAreRefused(t *testing.T) {
	long := map[string]uint64{strings.Repeat("x", maxText+1): 1}
	for what, change := range map[string]func(*workload.Observation){
		"a call":                   func(o *workload.Observation) { o.Syscalls = long },
		"a denied call":            func(o *workload.Observation) { o.Denied = long },
		"a destination":            func(o *workload.Observation) { o.Destinations = long },
		"a native call":            func(o *workload.Observation) { o.Native = []string{strings.Repeat("x", maxName+1)} },
		"a state of its writes":    func(o *workload.Observation) { o.RootfsWrites = workload.Tristate(strings.Repeat("x", maxText+1)) },
		"nothing (it is accepted)": func(*workload.Observation) {},
	} {
		o := observe(redis, 1, 1<<20, "openat")
		change(&o)
		if err := validate(&o); errors.Is(err, ErrInvalid) == strings.HasPrefix(what, "nothing") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	f := newFixture(t)
	for n := range maxWorkloads + 20 {
		f.model.end(&[]workload.Observation{observe(program(n), n, 1<<20, "openat")}[0], epoch.Add(time.Duration(n)*time.Second))
	}
	for _, limit := range []int{maxWorkloads + 1, 1 << 62} {
		if n := len(f.Workloads("", limit)); n != maxWorkloads {
			t.Errorf("limit %d lists %d workloads", limit, n)
		}
	}
	if n := len(f.Workloads("", -1)); n != 100 {
		t.Errorf("limit -1 lists %d workloads", n)
	}
}
