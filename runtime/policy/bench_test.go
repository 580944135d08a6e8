package policy

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// manyCalls is an input of the size a container has: 400 system calls about
// which three authors speak, with a handful of different reasons.
func manyCalls() Input {
	var claims []Claim
	for i := range 400 {
		key := KeySyscalls.Member(fmt.Sprintf("call_%03d", i*7919%400))
		for a := Default; a <= Request; a++ {
			claims = append(claims, Claim{Key: key, Value: Value((i*int(a) + i) % 4),
				Origin: Origin{Author: a, Source: "source of " + a.String(), Reason: fmt.Sprintf("reason %d", i%5)}})
		}
	}
	return Input{Claims: claims, Guards: []Guard{{Key: KeySyscalls.Member("call_001"), Ceiling: at(SyscallDeny), Source: "site"}}}
}

func BenchmarkMerge(b *testing.B) {
	in := manyCalls()
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		Merge(in)
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

// cpu is the CPU time this process has used: on a busy machine it says more
// than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
