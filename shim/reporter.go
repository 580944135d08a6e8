package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of what waits for the daemon.
const (
	maxWaitingEvents = 512
	reportDelay      = 50 * time.Millisecond // gathers a burst into one call
	reportRetry      = 5 * time.Second
	reportDeadline   = 2 * time.Second
	maxSpooledRuns   = 10_000 // files of all shims while no daemon comes to take them
)

// reporter sends events and observations to the daemon in batches, never more
// than one call at a time, and keeps a bounded number while the daemon is away.
type reporter struct {
	link  *link
	spool string
	wake  chan struct{}
	stop  chan struct{}
	done  chan struct{}

	mu          sync.Mutex
	events      []api.Event                     // guarded by mu
	checkpoints map[string]workload.Observation // by run, the newest only; guarded by mu
	decisions   map[string]api.Decision         // made by this shim, by run, the newest only; guarded by mu
	sending     int                             // who have taken what waited, and do not know yet whether it arrives; guarded by mu
	ended       map[string]bool                 // runs whose end was reported meanwhile; guarded by mu
	lost        uint64                          // guarded by mu
}

func newReporter(l *link) *reporter {
	r := &reporter{
		link: l, spool: l.cfg.SpoolDir, checkpoints: make(map[string]workload.Observation), decisions: make(map[string]api.Decision), ended: make(map[string]bool),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go r.run()
	return r
}

// event queues e; when too many wait it is counted as lost instead.
func (r *reporter) event(e api.Event) {
	r.mu.Lock()
	if len(r.events) < maxWaitingEvents {
		r.events = append(r.events, e)
	} else {
		r.lost++
	}
	r.mu.Unlock()
	r.nudge()
}

// checkpoint queues an observation of a run under way, replacing an older one.
func (r *reporter) checkpoint(o workload.Observation) {
	r.mu.Lock()
	r.checkpoints[o.Run] = o
	r.mu.Unlock()
	r.nudge()
}

// changed queues a decision that this shim has put in force by itself, replacing an older one of the run.
func (r *reporter) changed(d api.Decision) {
	r.mu.Lock()
	r.decisions[d.Facts.Run] = d
	r.mu.Unlock()
	r.nudge()
}

// final delivers the last observation of a run, or leaves it in the spool for
// the daemon to find. It returns once one of the two has happened.
func (r *reporter) final(o workload.Observation, d api.Decision) {
	r.mu.Lock()
	delete(r.checkpoints, o.Run)
	if r.sending > 0 {
		r.ended[o.Run] = true
	}
	req := r.takeLocked()
	r.mu.Unlock()
	req.Observations = append(req.Observations, o)
	err := r.send(req)
	if err != nil {
		// The decision too: a daemon that was killed may not have it on disk.
		if err := errors.Join(spool(r.spool, o.Run+api.SpooledDecision, d), spool(r.spool, o.Run+api.SpooledRun, o)); err != nil {
			log.L.WithError(err).WithField("run", o.Run).Error("forefend: the final observation of a run is lost")
		}
	}
	r.sent(req, err)
	if err != nil {
		r.nudge()
	}
}

func (r *reporter) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) run() {
	defer close(r.done)
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		if !r.pause(reportDelay) {
			return
		}
		r.mu.Lock()
		req := r.takeLocked()
		r.mu.Unlock()
		var err error
		if len(req.Events)+len(req.Observations)+len(req.Changed) > 0 {
			err = r.send(req)
		}
		r.sent(req, err)
		if err != nil {
			if !r.pause(reportRetry) {
				return
			}
			r.nudge()
		}
	}
}

func (r *reporter) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.stop:
		return false
	case <-t.C:
		return true
	}
}

// takeLocked empties the queues; sent is to be called with what came of it. r.mu is held.
func (r *reporter) takeLocked() api.ObserveRequest {
	r.sending++
	req := api.ObserveRequest{Version: api.Version, Events: r.events, Lost: r.lost}
	for run, o := range r.checkpoints {
		req.Observations = append(req.Observations, o)
		delete(r.checkpoints, run)
	}
	for run, d := range r.decisions {
		req.Changed = append(req.Changed, d)
		delete(r.decisions, run)
	}
	r.events, r.lost = nil, 0
	return req
}

// sent puts back what could not be sent, but for what there is newer of. Checkpoints are kept for a daemon that was away: a container in
// which nothing happens has no next one for a long time (quiet). What the daemon refuses it would refuse again.
func (r *reporter) sent(req api.ObserveRequest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.putBackLocked(req, errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err))
	}
	if r.sending--; r.sending == 0 {
		clear(r.ended)
	}
}

func (r *reporter) putBackLocked(req api.ObserveRequest, away bool) {
	keep := max(0, min(len(req.Events), maxWaitingEvents-len(r.events)))
	r.events = append(req.Events[:keep:keep], r.events...)
	r.lost += req.Lost + uint64(len(req.Events)-keep)
	for _, d := range req.Changed {
		if _, newer := r.decisions[d.Facts.Run]; !newer {
			r.decisions[d.Facts.Run] = d
		}
	}
	for _, o := range req.Observations {
		if _, newer := r.checkpoints[o.Run]; away && !newer && !o.Final && !r.ended[o.Run] {
			r.checkpoints[o.Run] = o
		}
	}
}

func (r *reporter) send(req api.ObserveRequest) error {
	return r.link.call(context.Background(), reportDeadline, func(ctx context.Context, c *api.Client) error {
		return c.Observe(ctx, req)
	})
}

// close sends what waits, within ctx, and ends the reporter.
func (r *reporter) close(ctx context.Context) {
	close(r.stop)
	select {
	case <-r.done:
	case <-ctx.Done():
		return
	}
	r.mu.Lock()
	req := r.takeLocked()
	r.mu.Unlock()
	if len(req.Events)+len(req.Changed) > 0 {
		_ = r.send(req) // nobody is left to tell
	}
}

// spool keeps a value on disk under a name. The daemon takes it up and removes it.
func spool(dir, name string, v any) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode for the spool: %w", err)
	}
	if names, err := readSome(dir, maxSpooledRuns); err == nil && len(names) >= maxSpooledRuns {
		return fmt.Errorf("spool observation: %d wait for the daemon already", len(names))
	}
	tmp, err := os.CreateTemp(dir, ".*")
	if err != nil {
		return fmt.Errorf("spool %s: %w", name, err)
	}
	_, err = tmp.Write(body)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("spool %s: %w", name, err), os.Remove(tmp.Name()))
	}
	return nil
}

// readSome returns at most n names in a directory.
func readSome(dir string, n int) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
