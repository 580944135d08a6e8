package anomaly

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// server is an observation of a server that has run for a while: every second it accepts, reads and writes.
func server(from time.Duration, extra ...workload.Call) workload.Observation {
	t := workload.Trace{From: start.Add(from)}
	var previous workload.Call
	add := func(c workload.Call) {
		t.Add(previous, c)
		previous = c
	}
	for s := range 10 {
		at := time.Duration(s) * time.Second
		for i, name := range []string{"accept4", "openat", "fstat", "sendfile", "close"} {
			add(workload.Call{At: at + time.Duration(i)*time.Millisecond, Thread: 7, Name: name, Count: 1})
		}
	}
	for _, c := range extra {
		add(c)
	}
	return workload.Observation{
		Trace:        &t,
		Destinations: map[string]uint64{"tcp/10.0.0.1:5432": 3},
		Programs:     map[string]uint64{"/usr/sbin/server": 1},
		Usage:        workload.Usage{MemoryLast: 100 << 20, CPUSeconds: (from + 10*time.Second).Seconds() / 10},
	}
}

// teach lets a baseline see a normal run.
func teach(t *testing.T, b *Baseline, length time.Duration) {
	t.Helper()
	w := b.Watch(start)
	for at := time.Duration(0); at < length; at += 10 * time.Second {
		for _, a := range w.Observe(server(at), start.Add(at+10*time.Second)) {
			t.Errorf("a normal run at %s: %+v", at, a)
		}
	}
	b.Learn(w)
}

func TestWatchFindsWhatIsNew(t *testing.T) {
	b := NewBaseline()
	for range 8 {
		teach(t, b, 20*time.Minute)
	}
	w := b.Watch(start)
	var now time.Duration
	observe := func(o workload.Observation) map[string]evidence.Anomaly {
		now += 10 * time.Second
		found := make(map[string]evidence.Anomaly)
		for _, a := range w.Observe(o, start.Add(now)) {
			if a.Score <= a.Threshold || a.Why == "" || a.PerHour != PerHour {
				t.Errorf("%+v", a)
			}
			found[a.Kind] = a
		}
		return found
	}
	for range 6 {
		if found := observe(server(now)); len(found) != 0 {
			t.Fatalf("nothing new: %+v", found)
		}
	}
	at := now
	attack := server(at)
	for i, name := range []string{"socket", "connect", "dup2", "execve", "setuid", "ptrace"} {
		attack = server(at, workload.Call{At: 9500 * time.Millisecond, Thread: 7, Name: name, Count: 1 + i})
	}
	attack.Destinations["tcp/203.0.113.9:4444"] = 1
	attack.Programs["/tmp/x"] = 1
	found := observe(attack)
	for _, kind := range []string{evidence.AnomalySyscalls, evidence.AnomalyConnections, evidence.AnomalyPrograms} {
		if _, ok := found[kind]; !ok {
			t.Errorf("no anomaly of %s in %+v", kind, found)
		}
	}
	if again := observe(attack); len(again) != 0 {
		t.Errorf("the same alarm twice: %+v", again)
	}
	b.Learn(w)
	if _, known := b.programs.known["0 /tmp/x"]; known {
		t.Error("what raised an alarm was learned")
	}
}

func TestStateKeepsAll(t *testing.T) {
	b := NewBaseline()
	for range 3 {
		teach(t, b, 5*time.Minute)
	}
	data, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(data)
	if err != nil {
		t.Fatal(err)
	}
	same, err := again.State()
	if err != nil || !bytes.Equal(data, same) {
		t.Errorf("restored: %v\n%.300s\n%.300s", err, data, same)
	}
	trace := []string{"accept4", "openat", "execve", "openat", "fstat"}
	if x, y := b.sequence.Score(trace), again.sequence.Score(trace); x != y {
		t.Errorf("scores %v, restored %v", x, y)
	}
}

// A server that did the same for hours may do one thing more, but not all in another order.
func TestWatchOfARegularWorkload(t *testing.T) {
	b := NewBaseline()
	for range 8 {
		teach(t, b, 20*time.Minute)
	}
	w := b.Watch(start)
	more := server(0, workload.Call{At: 9500 * time.Millisecond, Thread: 7, Name: "fstat", Count: 1})
	if found := w.Observe(more, start.Add(10*time.Second)); len(found) != 0 {
		t.Errorf("one call more: %+v", found)
	}
	calls, err := server(0).Trace.Calls()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	if score, _ := w.observeOrder(calls); score <= 1 {
		t.Errorf("another order: %v", score)
	}
}

// What follows a familiar beginning is learned; what is known all through is not learned again, few kinds of calls or not.
func TestLearnsWhatIsNotKnown(t *testing.T) {
	b := NewBaseline()
	known, fresh := strings.Fields(strings.Repeat("a b ", 200)), strings.Fields(strings.Repeat("c d e f ", 50))
	for _, traces := range [][][]string{{known, append(slices.Clone(known), fresh...)}, {known, fresh}} {
		b.learnCalls(&Watch{traces: traces}, 1)
		if n := len(b.sequence.traces); n != 2 {
			t.Errorf("%d traces learned, not 2", n)
		}
	}
}

// The scores of version 1 were on another scale; what the detectors learned is the same.
func TestRestoreOfVersion1(t *testing.T) {
	b, err := Restore([]byte(`{"version":1,"sequence":{"names":["a"],"lists":["AQE="]},"score_hours":2,"scores":[3,4],"mix":{"names":["a"],"lists":["AQAB"]},` +
		`"destinations":{},"programs":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if b.scores.Hours() != 0 || len(b.scores.top) != 0 || b.sequence.length != 2 || len(b.mix.segments) != 1 {
		t.Errorf("%+v", b)
	}
	for _, version := range []int{0, StateVersion + 1} {
		if _, err := Restore(fmt.Appendf(nil, `{"version":%d}`, version)); !errors.Is(err, ErrState) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestWatchOfUnknownWorkload(t *testing.T) {
	w := NewBaseline().Watch(start)
	o := server(0)
	if found := w.Observe(o, start.Add(10*time.Second)); len(found) != 0 {
		t.Errorf("nothing is known, yet %+v", found)
	}
	if found := w.Observe(o, start); found != nil {
		t.Errorf("out of order: %+v", found)
	}
	o.Trace.Packed = []byte{1}
	w.Observe(o, start.Add(20*time.Second))
	w.Observe(workload.Observation{}, start.Add(100*time.Hour))
	if len(w.rows) > maxWatchRows {
		t.Errorf("%d rows kept", len(w.rows))
	}
}

func FuzzRestore(f *testing.F) {
	b := NewBaseline()
	w := b.Watch(start)
	for at := time.Duration(0); at < 2*time.Minute; at += 10 * time.Second {
		w.Observe(server(at), start.Add(at+10*time.Second))
	}
	b.Learn(w)
	data, err := b.State()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":2,"sequence":{"names":["a"],"lists":["AQE="]},"mix":{"names":["a"],"lists":["AQAB"]},"scores":[1e308,-1e308],"score_hours":1e-300}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Restore(data)
		if err != nil {
			return
		}
		w := b.Watch(start)
		for i := range 3 {
			for _, a := range w.Observe(server(0), start.Add(time.Duration(i)*10*time.Second)) {
				if a.Score != a.Score {
					t.Fatalf("%+v", a)
				}
			}
		}
		b.Learn(w)
		if _, err := b.State(); err != nil {
			t.Fatal(err)
		}
	})
}

func ExampleBaseline() {
	b := NewBaseline()
	for range 20 {
		w := b.Watch(start)
		w.Observe(server(0), start.Add(10*time.Minute))
		b.Learn(w)
	}
	w := b.Watch(start)
	o := server(0)
	o.Programs["/tmp/miner"] = 1
	for _, a := range w.Observe(o, start.Add(10*time.Second)) {
		fmt.Println(a.Kind, a.Why)
	}
	// Output: programs executed /tmp/miner: none of 20 runs in 3.3 hours executed /tmp/miner
}
