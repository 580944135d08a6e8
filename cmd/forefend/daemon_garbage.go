package main

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// collectPause is how long nobody has waited for an answer before garbage is collected.
const collectPause = 5 * time.Millisecond

// awaited are the calls that somebody waits for: a container that is created, a person.
var awaited = map[string]bool{
	ttrpcName("Admit"): true, ttrpcName("Update"): true, ttrpcName("Adjust"): true,
}

func ttrpcName(method string) string { return "/" + api.ServiceName + "/" + method }

// collector has the garbage collected between answers. A collection marks with every processor that is idle, for longer than an
// answer takes; left to itself it begins in the midst of one, since answers are what makes garbage, and whoever asked, at a lower
// priority than the daemon's, then waits for it as well.
type collector struct {
	answering atomic.Int64
	due       *time.Timer
	worth     func() bool
	collect   func()
}

func newCollector() *collector { return collectorOf(worthCollecting, runtime.GC) }

func collectorOf(worth func() bool, collect func()) *collector {
	c := &collector{worth: worth, collect: collect}
	c.due = time.AfterFunc(time.Hour, c.pause)
	c.due.Stop()
	return c
}

// intercept implements ttrpc.UnaryServerInterceptor.
func (c *collector) intercept(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, answer ttrpc.Method) (any, error) {
	if !awaited[info.FullMethod] {
		return answer(ctx, decode)
	}
	c.answering.Add(1)
	defer func() {
		if c.answering.Add(-1) == 0 {
			c.due.Reset(collectPause)
		}
	}()
	return answer(ctx, decode)
}

// pause collects, if there is enough to collect and nobody waits.
func (c *collector) pause() {
	if c.answering.Load() == 0 && c.worth() {
		c.collect()
	}
}

// worthCollecting reports whether half of the garbage is there at which the runtime would collect by itself.
func worthCollecting() bool {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	now, live, goal := s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64()
	return now > live+(goal-min(live, goal))/2
}
