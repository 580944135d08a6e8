package history

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
	"testing"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// fullSummary has something in every field.
func fullSummary(n int) *summary {
	s := &summary{
		key: workload.Key{Level: workload.LevelRepositoryCommand, Value: fmt.Sprintf("%032x", n)}, name: "redis -- redis-server", last: math.MaxInt64,
		runs: math.MaxUint32, neverWrote: 1, wrote: 2, measured: 300, lasted: 1.5, next: 3, ways: ways{runs: waysWindow},
		calls:    calls{runs: 9, many: []call{newCall(0, 0, 2), newCall(1, flagNative, maxValue), newCall(maxNames-1, flagHot|flagNative, 7)}, once: []call{newCall(5, flagHot, 9)}},
		serving:  calls{runs: 4, many: []call{newCall(3, 0, 4)}},
		stopping: calls{runs: 1, once: []call{newCall(4, 0, 1)}},
	}
	for i := range estimate.Window {
		s.ring = append(s.ring, peak{memory: float32(i), cpu: 0.25, sent: math.MaxFloat32})
	}
	s.older = append(s.older, peak{received: 7})
	for i := range maxDestinations {
		s.destinations = append(s.destinations, fmt.Sprint("tcp/192.0.2.1:", i))
	}
	for i := range workload.MaxWays {
		s.ways.list = append(s.ways.list, usedWay{fmt.Sprint("strong ", i), 1<<waysWindow - 1})
	}
	return s
}

func TestPacked(t *testing.T) {
	whole := reflect.ValueOf(*fullSummary(1))
	for i := range whole.NumField() { // a field that is new has to be packed, too
		if whole.Field(i).IsZero() {
			t.Errorf("the summary of this test has no %s", whole.Type().Field(i).Name)
		}
	}
	for name, s := range map[string]*summary{"full": fullSummary(1), "empty": {key: workload.Key{Level: workload.LevelNode, Value: "node"}}} {
		p := new(packer).pack(s)
		if got := p.unpack(); !reflect.DeepEqual(got, s) {
			t.Errorf("%s:\n%+v, not\n%+v", name, got, s)
		}
		if h := p.head(); h != (head{s.key, s.name, s.last, s.runs}) {
			t.Errorf("%s: head %+v", name, h)
		}
	}
}

// What is got from a shelf is a copy, and the shelf keeps only what was put last.
func TestShelf(t *testing.T) {
	s := newShelf()
	key := fullSummary(1).key
	if s.get(key) != nil {
		t.Error("something is there")
	}
	s.put(fullSummary(1))
	got := s.get(key)
	got.ring[0], got.destinations[0], got.runs = peak{}, "none", 1
	if !reflect.DeepEqual(s.get(key), fullSummary(1)) {
		t.Error("changed by who looked at it")
	}
	s.change(key, func(sum *summary) { sum.runs = 5 })
	if s.get(key).runs != 5 || len(s.packed) != 1 {
		t.Errorf("%d runs, %d summaries", s.get(key).runs, len(s.packed))
	}
	s.forget(key)
	s.forget(key)
	if s.get(key) != nil || s.bytes != 0 {
		t.Errorf("%d bytes are left", s.bytes)
	}
}

// A collection of garbage finds one object for each summary, however much is in it and however often it was changed.
func TestShelfIsFlat(t *testing.T) {
	const n, more = 2000, 500 // more: the map's own, and what goes on beside
	objects := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapObjects
	}
	s := newShelf()
	before := objects()
	for i := range 2 * n {
		sum := fullSummary(i % n)
		sum.name = fmt.Sprint("redis ", i)
		s.put(sum)
	}
	if made := objects() - before; made > n+more {
		t.Errorf("%d objects for %d summaries", made, n)
	}
	runtime.KeepAlive(s)
}

// BenchmarkCollect is a collection of garbage in a process with the history of ten thousand workloads: what it costs in all.
func BenchmarkCollect(b *testing.B) {
	m := newModel(0.99, 100_000)
	for i := range 30_000 {
		end(m, generateRun(i, 10_000))
	}
	b.ResetTimer()
	for b.Loop() {
		runtime.GC()
	}
	runtime.KeepAlive(m)
}
