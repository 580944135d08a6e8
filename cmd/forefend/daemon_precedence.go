package main

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/cgroup"
)

const (
	daemonGroup = "daemon" // see daemon.cgroup
	scanGroup   = "scan"

	// daemonShare is how many times the CPU time of another group its own may have when both want it. Niceness counts within a group only,
	// and where containerd is in no group, each thread of it, its shims and their commands counts as one: fifty of them, where fifty
	// containers start. The daemon needs half a millisecond for an answer, and a share of this size lets it begin at once and go on.
	daemonShare = 100
	usualShare  = 1

	lookAtShare = time.Second
	// A share of this size is for answers. Who uses more than longUse of all processors for longUseFor is busy with something else, and takes
	// its turn as others do until it uses less than half of that.
	longUse    = 0.5
	longUseFor = 10 * time.Second
)

// cpuShare is what share the daemon's group is due.
type cpuShare struct {
	busy  time.Duration // for how long it has used more than longUse
	usual bool          // it has the usual share
}

// look takes what share of all processors was used in the time d, and reports whether what is due has changed.
func (s *cpuShare) look(used float64, d time.Duration) (changed bool) {
	switch {
	case used > longUse:
		s.busy += d
	case used < longUse/2 || !s.usual:
		s.busy = 0
	}
	usual := s.busy >= longUseFor
	changed, s.usual = usual != s.usual, usual
	return changed
}

// keepShare lets the group have its large share only while it uses little.
func (d *daemon) keepShare(ctx context.Context) {
	if !d.settled {
		return // whoever manages this process gives it its share
	}
	tick := time.NewTicker(lookAtShare)
	defer tick.Stop()
	var s cpuShare
	for before, at := cpuTime(), time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		used := cpuTime()
		if s.look(float64(used-before)/float64(now.Sub(at))/float64(runtime.NumCPU()), now.Sub(at)) {
			share, why := daemonShare, "its turn comes first again"
			if s.usual {
				share, why = usualShare, fmt.Sprintf("it used more than %.0f %% of the processors for %s: its turn comes as others' do", longUse*100, longUseFor)
			}
			log.G(ctx).WithError(cgroup.Prefer(d.cgroup(daemonGroup), share)).Warn("forefend daemon: " + why)
		}
		before, at = used, now
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
