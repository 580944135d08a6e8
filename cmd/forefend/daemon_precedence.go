package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	daemonGroup = "daemon" // see daemon.cgroup
	scanGroup   = "scan"

	// The daemon answers while many containers start: its turn comes first.
	daemonNice = -10
	// daemonShare is how many times the CPU time of another group its own may have when both want it. Niceness counts
	// within a group only. The daemon needs half a millisecond for an answer, and a share of this size lets it begin at once.
	daemonShare = 10
	// daemonSlice is how long one of its threads goes on before others have their turn, in nanoseconds. Since Linux 6.12 who asks
	// for shorter turns than the thread that runs gets them sooner.
	daemonSlice = 200_000
)

// precede gives every thread of this process its niceness and its slice: both are properties of a thread, and the Go
// runtime has started several before main runs. Threads inherit them from the one that starts them; a second look finds those
// that were started meanwhile.
func precede() error {
	var failed error
	for range 2 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list my threads: %w", err)
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: daemonNice, Runtime: daemonSlice}
			if err := unix.SchedSetAttr(id, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				failed = fmt.Errorf("thread %d: %w", id, err)
			}
		}
	}
	return failed
}
