package shim

import (
	"maps"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

func TestSameNews(t *testing.T) {
	seen := func() workload.Observation {
		return workload.Observation{
			Syscalls: map[string]uint64{"execve": 1}, Denied: map[string]uint64{}, Destinations: map[string]uint64{"tcp/127.0.0.1:1": 1},
			Usage: workload.Usage{MemoryPeak: 100, MemoryLast: 90, CPUSeconds: 1, CPUPeak: 0.5, PIDsPeak: 3},
		}
	}
	if idle := seen(); !sameNews(seen(), idle) {
		t.Error("an idle container has news")
	}
	drift := seen()
	drift.Usage.CPUSeconds += 0.01
	drift.Usage.MemoryLast = 80
	if !sameNews(seen(), drift) {
		t.Error("what a sleeping process does by itself is news")
	}
	for name, change := range map[string]func(*workload.Observation){
		"memory":   func(o *workload.Observation) { o.Usage.MemoryPeak++ },
		"cpu":      func(o *workload.Observation) { o.Usage.CPUSeconds++ },
		"cpu peak": func(o *workload.Observation) { o.Usage.CPUPeak++ },
		"pids":     func(o *workload.Observation) { o.Usage.PIDsPeak++ },
		"oom":      func(o *workload.Observation) { o.Usage.OOMKills++ },
		"limit":    func(o *workload.Observation) { o.Usage.MemoryFail++ },
		"call":     func(o *workload.Observation) { o.Syscalls = map[string]uint64{"execve": 2} },
		"denial":   func(o *workload.Observation) { o.Denied = map[string]uint64{"ptrace": 1} },
		"fault":    func(o *workload.Observation) { o.Faults = map[string]uint64{workload.ReceiptFault + "differs": 1} },
		"destination": func(o *workload.Observation) {
			o.Destinations = maps.Clone(o.Destinations)
			o.Destinations["udp/127.0.0.1:2"] = 1
		},
	} {
		o := seen()
		change(&o)
		if sameNews(seen(), o) {
			t.Errorf("%s: not noticed", name)
		}
	}
}
