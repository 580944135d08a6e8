package record

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// FuzzStat reads /proc/PID/stat of a process that may call itself anything.
func FuzzStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own, "sh", uint64(7))
	f.Add([]byte("1 (a) b) S 1"), "a) R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 99 (x", uint64(1<<63))
	f.Add([]byte("1 ("), ") S", uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, comm string, start uint64) {
		if _, at, err := parseStat(data); err == nil && !strings.Contains(string(data), strconv.FormatUint(at, 10)) {
			t.Errorf("%q gives start %d", data, at)
		}
		// The kernel cuts the name at 15 bytes, and takes nothing out of it.
		line := fmt.Sprintf("42 (%.15s) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 1 1 18446744073709551615\n", comm, start)
		if state, at, err := parseStat([]byte(line)); err != nil || state != 'S' || at != start {
			t.Errorf("%q gives %q, %d, %v", line, state, at, err)
		}
	})
}
