package sandbox

import (
	"fmt"
	"time"
)

// Limits bound one scan. The zero value of a field is its default.
type Limits struct {
	Time   time.Duration // wall time, default 30 s; also the most processor time
	Memory int64         // bytes of private memory, default 512 MiB; files that are mapped do not count
	Output int64         // bytes of JSON, default 4 MiB
	Files  uint64        // descriptors, default 256

	// Started, when set, is told the process id before the scanner has read anything of note, to put it into a cgroup.
	// An error ends the scan.
	Started func(pid int) error
}

const (
	defaultTime   = 30 * time.Second
	defaultMemory = 512 << 20
	defaultOutput = 4 << 20
	defaultFiles  = 256
	// largestFile bounds a file of the scan cache, the only thing that the scanner may write.
	largestFile = 1 << 30
	// keptErrors is how much of what the scanner writes to its standard error is kept.
	keptErrors = 8 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Time <= 0 {
		l.Time = defaultTime
	}
	if l.Memory <= 0 {
		l.Memory = defaultMemory
	}
	if l.Output <= 0 {
		l.Output = defaultOutput
	}
	if l.Files == 0 {
		l.Files = defaultFiles
	}
	return l
}

// ParentVariable is in the environment of a scanner that Run has started, and all there is in it of ours. Its value is
// for FromParent.
const ParentVariable = "FOREFEND_SCAN_LIMITS"

// encode is the inverse of FromParent.
func (l Limits) encode() string { return fmt.Sprintf("%d %d %d", l.Time, l.Memory, l.Files) }

// FromParent reads the value of ParentVariable. ok is false when Run did not start this process.
func FromParent(value string) (l Limits, ok bool) {
	n, err := fmt.Sscanf(value, "%d %d %d", &l.Time, &l.Memory, &l.Files)
	if err != nil || n != 3 {
		return Limits{}, false
	}
	return l, true
}
