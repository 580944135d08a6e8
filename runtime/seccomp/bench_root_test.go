package seccomp

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkCall compares what one call costs the caller: native, watched, and
// denied by the supervisor. Run as root:
//
//	FOREFEND_ROOT_TESTS=1 go test -run '^$' -bench Call ./runtime/seccomp
func BenchmarkCall(b *testing.B) {
	requireRoot(b)
	for _, v := range []Verdict{Native, Watch, Deny} {
		b.Run(v.String(), func(b *testing.B) { benchCall(b, v, 20000, "0s") })
	}
	b.Run("native-rare", func(b *testing.B) { benchCall(b, Native, 200, "1ms") })
	b.Run("watch-rare", func(b *testing.B) { benchCall(b, Watch, 200, "1ms") })
}

func benchCall(b *testing.B, v Verdict, calls int, pause string) {
	container := newBox(b)
	verdicts := hotNative()
	verdicts["umask"] = v
	container.attach(container.compile(Request{Verdicts: verdicts, Fallback: Watch}))
	probe := container.start()
	defer probe.end()
	probe.do("bench:umask,1000,0s") // warm
	var took []int
	var before, after syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	b.ResetTimer()
	for range b.N {
		for _, field := range strings.Fields(strings.TrimPrefix(probe.do("bench:umask,"+strconv.Itoa(calls)+","+pause), "bench=")) {
			n, err := strconv.Atoi(field)
			must(b, err)
			took = append(took, n)
		}
	}
	b.StopTimer()
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
	cpu := func(r syscall.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	b.ReportMetric(float64(cpu(after)-cpu(before))/float64(len(took)), "supervisor-cpu-ns/call")
}
