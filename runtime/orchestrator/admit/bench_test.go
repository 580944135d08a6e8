package admit

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"
)

// The cases that make up a node's life: a first run, the usual request, and the usual request with history.
func BenchmarkDecide(b *testing.B) {
	for _, bench := range []struct {
		name string
		in   Input
	}{
		{"first run", asked(b, nil)},
		{"profile given", withDefaultProfile(asked(b, nil))},
		{"profile given, learned", learned(withDefaultProfile(asked(b, nil)))},
		{"compiled before", remembering(learned(withDefaultProfile(asked(b, nil))))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				decide(b, bench.in)
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			body, err := json.Marshal(decide(b, bench.in))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(body)), "answer-bytes")
		})
	}
}

// cpu is the CPU time this process has used, garbage collection included: on a busy machine it says more than the clock.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// remembering decides as the daemon does: with a Compiler.
func remembering(in Input) Input {
	in.Compiler = &Compiler{}
	return in
}
