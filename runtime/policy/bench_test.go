package policy

import (
	"fmt"
	"testing"
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
	for b.Loop() {
		Merge(in)
	}
}
