package shim

import (
	"runtime/debug"
	"time"
)

// How a shim collects garbage. Upstream keeps the heap small (40) from the
// first moment on; a shim makes most of its garbage while it creates its
// container, and collecting it again and again then costs more CPU than
// anything else Forefend does (docs/benchmarks.md).
const (
	youthGC   = 800             // percent, while young
	steadyGC  = 40              // percent, upstream's choice
	youth     = 8 * time.Second // from the start of the service
	neverGC   = -1              // for processes that end in milliseconds
	youthHeap = 48 << 20        // bytes at which it is collected however young it is
)

// deferGarbage lets the heap of a young shim grow and then settles it.
func deferGarbage() (settle *time.Timer) {
	debug.SetGCPercent(youthGC)
	debug.SetMemoryLimit(youthHeap)
	return time.AfterFunc(youth, func() {
		debug.SetGCPercent(steadyGC)
		debug.FreeOSMemory()
	})
}

// skipGarbage is for the start and delete commands.
func skipGarbage() {
	debug.SetGCPercent(neverGC)
	debug.SetMemoryLimit(youthHeap)
}
