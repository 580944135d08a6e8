package shim

import (
	"context"
	"maps"
	"sync"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/workload"
)

// firstSample is when a container is first looked at after its start; the
// interval then doubles up to the configured one. A short run is seen more than
// once, and a systemd scope that is gone at exit has left samples behind.
const firstSample = 50 * time.Millisecond

// watch observes one container from its creation to its exit and turns what it saw into
// observations. Its two goroutines end with the container, or by abandon.
type watch struct {
	s       *Service
	c       *container
	sampler *cgroup.Sampler // nil when the cgroup cannot be read
	before  rootfs.Entries
	walked  error // why before is not known

	mu     sync.Mutex
	series cgroup.Series // guarded by mu
	raises int64         // of the memory limit, by the airbag; guarded by mu
	exit   workload.Exit // guarded by mu
	ended  time.Time     // guarded by mu; zero while the container lives

	waiting sync.WaitGroup // the goroutine that waits for the exit
	stop    context.CancelFunc

	lastReport workload.Observation // run alone uses these three
	reportedAt time.Time
	reports    int

	begun   sync.Once
	started chan struct{} // closed once the workload's first process was let go
	last    chan struct{} // closed once the last sample has been taken
	done    chan struct{} // closed once the final observation is with the daemon or in the spool
}

func newWatch(s *Service, c *container, group cgroup.Group) *watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{s: s, c: c, stop: stop, started: make(chan struct{}), last: make(chan struct{}), done: make(chan struct{})}
	var err error
	if w.sampler, err = group.Sampler(); err != nil {
		s.reporter.event(api.Event{
			Time: time.Now(), ID: c.id, Run: c.decision.Facts.Run, Kind: api.EventDegraded,
			Message: "the usage of this container is not observed: " + err.Error(),
		})
	}
	if c.upper != "" {
		w.before, _, w.walked = rootfs.UpperEntries(c.upper, rootfs.MaxEntries)
	}
	w.baseline()
	exited := make(chan workload.Exit, 1)
	w.waiting.Go(func() {
		resp, err := s.TTRPCTaskService.Wait(ctx, &taskv3.WaitRequest{ID: c.id.Container})
		if err == nil {
			exited <- workload.Exit{Status: resp.ExitStatus}
		}
	})
	go w.run(ctx, exited)
	return w
}

// run samples until the container has exited, then reports the run.
func (w *watch) run(ctx context.Context, exited <-chan workload.Exit) {
	defer close(w.done)
	defer w.waiting.Wait()
	delay := min(firstSample, w.s.cfg.Sample)
	timer := time.NewTimer(delay)
	timer.Stop() // until the workload starts
	defer timer.Stop()
	var next time.Time
	started := w.started
	var pace urgentPace
	var urgent <-chan time.Time // nil: nothing urgent waits
	for {
		select {
		case <-ctx.Done():
			w.close()
			close(w.last)
			return
		case exit := <-exited:
			w.sample()
			w.close()
			w.mu.Lock()
			w.exit, w.ended = exit, time.Now()
			w.mu.Unlock()
			close(w.last)
			w.waiting.Go(w.c.agent.close) // it has nothing left to do, and holds the namespaces
			w.s.reporter.final(w.observation(), w.c.current())
			return
		case <-started:
			started = nil
			timer.Reset(delay)
			next = time.Now().Add(w.s.cfg.Sample) // the first checkpoint makes the container's usage known soon
		case <-w.c.urgent:
			if started == nil && urgent == nil { // before the start the first checkpoint is soon enough
				urgent = time.After(pace.wait(time.Now()))
			}
		case now := <-urgent:
			urgent = nil
			pace.spend(now)
			w.sample()
			w.checkpoint(now)
		case now := <-timer.C:
			w.sample()
			w.s.lives(w.c, now)
			delay = min(delay*2, w.s.cfg.Sample)
			timer.Reset(delay)
			if w.reports > 0 && rose(w.lastReport.Usage, w.totals()) {
				w.c.urgent.call()
			}
			if !now.Before(next) {
				next = now.Add(w.s.cfg.Checkpoint)
				w.checkpoint(now)
			}
		}
	}
}

// baseline is the sample before the workload's first instruction. What is in
// the cgroup then is runc's init, with a handful of threads that are not the workload's.
func (w *watch) baseline() {
	if w.sampler == nil {
		return
	}
	if sample, err := w.sampler.Sample(); err == nil {
		sample.PIDs = 0
		w.mu.Lock()
		w.series.Add(sample)
		w.mu.Unlock()
	}
}

func (w *watch) sample() {
	if w.sampler == nil {
		return
	}
	if sample, err := w.sampler.Sample(); err == nil { // gone files: the container just exited
		w.mu.Lock()
		w.series.Add(sample)
		w.mu.Unlock()
	}
}

func (w *watch) totals() workload.Usage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.series.Totals()
}

// raised counts a raise of the memory limit.
func (w *watch) raised() {
	w.mu.Lock()
	w.raises++
	w.mu.Unlock()
}

func (w *watch) close() {
	if w.sampler != nil {
		w.sampler.Close()
	}
}

// begin says that the workload has been started. It may be called again.
func (w *watch) begin() { w.begun.Do(func() { close(w.started) }) }

// sampled waits, within ctx, until the last sample has been taken: before that
// the cgroup must not go away.
func (w *watch) sampled(ctx context.Context) {
	select {
	case <-w.last:
	case <-ctx.Done():
	}
}

// reported waits, within ctx, until the run's final observation is delivered,
// so that the very next Create profits from it.
func (w *watch) reported(ctx context.Context) {
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}

// abandon ends the watch without a final observation.
func (w *watch) abandon() {
	w.stop()
	<-w.done
}

// checkpoint reports what was seen so far, unless nothing has happened that the
// last report does not say: a node full of idle containers costs nothing.
func (w *watch) checkpoint(now time.Time) {
	o := w.observation()
	if w.reports != 0 && now.Sub(w.reportedAt) < quiet && sameNews(w.lastReport, o) {
		return
	}
	w.reports++
	w.lastReport, w.reportedAt = o, now
	w.s.reporter.checkpoint(o)
}

// quiet is how long a container in which nothing happens goes unreported. The
// daemon takes a run for lost after an hour.
const quiet = 10 * time.Minute

// sameNews reports whether b would teach nobody what a did not.
func sameNews(a, b workload.Observation) bool {
	const cpu = 0.05 // seconds
	return a.Usage.MemoryPeak == b.Usage.MemoryPeak && a.Usage.PIDsPeak == b.Usage.PIDsPeak &&
		a.Usage.OOMKills == b.Usage.OOMKills && a.Usage.MemoryFail == b.Usage.MemoryFail &&
		b.Usage.CPUSeconds-a.Usage.CPUSeconds < cpu && b.Usage.CPUPeak-a.Usage.CPUPeak < cpu &&
		maps.Equal(a.Syscalls, b.Syscalls) && maps.Equal(a.Denied, b.Denied) && maps.Equal(a.Destinations, b.Destinations) && maps.Equal(a.Refused, b.Refused) && maps.Equal(a.Programs, b.Programs) &&
		len(a.Ways) == len(b.Ways) && maps.Equal(a.Faults, b.Faults)
}

// observation is what was seen so far, and the order of the calls since the last one: each is to be reported.
func (w *watch) observation() workload.Observation {
	d := w.c.current()
	o := workload.Observation{
		Version: workload.ObservationVersion,
		ID:      w.c.id, Run: d.Facts.Run, User: d.Facts.User, Group: d.Facts.Group,
		Started: d.Time,
	}
	d.Facts.Describe(&o)
	o.Predicted = d.Prediction.Predicted()
	w.mu.Lock()
	o.Usage, o.Exit, o.Ended = w.series.Usage(), w.exit, w.ended
	o.Usage.Raises = w.raises
	w.mu.Unlock()
	o.Final = !o.Ended.IsZero()
	if w.c.supervised != nil {
		counts := w.c.supervised.Counts()
		o.Watched = true
		o.Syscalls, o.Denied, o.Native = counts.Allowed, counts.Denied, nativeOf(d)
		o.Destinations, o.DestinationsLost = counts.Destinations, counts.DestinationsLost
		w.c.life.describe(&o, counts, time.Now())
		o.Programs, o.ProgramsLost, o.Trace = counts.Programs, counts.ProgramsLost, w.c.supervised.TakeTrace()
	}
	w.c.passages.describe(&o)
	o.Faults = w.c.faults.counts()
	w.c.agent.describe(&o)
	if o.Final && w.c.upper != "" && w.walked == nil {
		o.RootfsWrites, _ = rootfs.Wrote(w.before, w.c.upper) // unknown on error
	}
	return o
}

// nativeOf lists the learned calls this run could not count, because they were
// not watched.
func nativeOf(d api.Decision) []string {
	var out []string
	verdicts := d.Effective.Members(policy.KeySyscalls)
	for name := range d.Prediction.Seen {
		if verdicts[name] == policy.SyscallNative {
			out = append(out, name)
		}
	}
	return out
}
