// Package processor measures work by the processor time that it takes: other work on the machine does not change it as it does the
// time that passes.
package processor

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Time has a benchmark report the processor time of an operation of its loop, in microseconds (cpu-µs/op). It is that of the whole
// process, from the call on.
func Time(b *testing.B) {
	begun := Used(b)
	b.Cleanup(func() { b.ReportMetric(float64(Used(b)-begun)/float64(b.N)/1000, "cpu-µs/op") })
}

// Used is the processor time of this process so far. A test that bounds what something takes bounds this.
func Used(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
