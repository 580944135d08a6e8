package scans

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

const (
	maxQueue    = 256              // requests that wait; more are asked for again when they are needed
	maxInMemory = 128              // results
	retryAfter  = 10 * time.Minute // a scan that failed
)

// How a scan came out, for the meter.
const (
	OutcomeOK         = "ok"
	OutcomeIncomplete = "incomplete" // it could not follow everything
	OutcomeFailed     = "failed"
	OutcomeDropped    = "dropped" // too many waited
)

// Options are what a Scans needs of its node.
type Options struct {
	Results string        // directory of results
	Bytes   int64         // most of them
	Wait    time.Duration // how long a container may wait for the first scan of what it runs; 0: not at all
	// Scan runs the scanner in its sandbox.
	Scan func(context.Context, Request) (evidence.Scan, error)
	// Rate completes each scan, once, before anybody sees it; nil: nothing is to be added.
	Rate func(*evidence.Scan)
	// Done is told how each scan came out; nil: nobody is.
	Done func(outcome string, took time.Duration)
}

// Scans is the static analysis of a node.
type Scans struct {
	o     Options
	shelf shelf
	wake  chan struct{}

	mu     sync.Mutex
	known  map[string]*list.Element // of *result; guarded by mu
	recent *list.List               // most recently used first; guarded by mu
	asked  map[string]*job          // waiting or under way; guarded by mu
	queue  []*job                   // in order; guarded by mu
}

// result is a scan, or why there is none.
type result struct {
	key  string
	scan *evidence.Scan // never written to once it is here
	err  error
	at   time.Time
}

// job is a scan that waits or is under way.
type job struct {
	Request
	asked time.Time
	done  chan struct{} // closed when it has come out
}

// New returns a Scans over what its directory holds.
func New(o Options) *Scans {
	if o.Rate == nil {
		o.Rate = func(*evidence.Scan) {}
	}
	if o.Done == nil {
		o.Done = func(string, time.Duration) {}
	}
	return &Scans{
		o: o, shelf: shelf{o.Results, o.Bytes}, wake: make(chan struct{}, 1),
		known: make(map[string]*list.Element), recent: list.New(), asked: make(map[string]*job),
	}
}

// Errors of Lookup.
var (
	ErrPending = errors.New("the image is being scanned; the next container profits from it")
	ErrUnknown = errors.New("nothing to scan is known")
)

// Lookup returns the scan of what a container runs. When there is none yet, it is asked for, the error is ErrPending,
// and wait is how long it is worth waiting. Another error says why the last scan failed.
func (s *Scans) Lookup(f workload.Facts) (scan *evidence.Scan, wait time.Duration, err error) {
	r, ok := RequestOf(f)
	if !ok {
		return nil, 0, ErrUnknown
	}
	if scan, err, ok := s.recall(r.Key); ok {
		return scan, 0, err
	}
	return nil, s.Ask(r), ErrPending
}

// recall returns a result from memory or disk.
func (s *Scans) recall(key string) (*evidence.Scan, error, bool) {
	s.mu.Lock()
	if e := s.known[key]; e != nil {
		r := e.Value.(*result)
		if r.err == nil || time.Since(r.at) < retryAfter {
			s.recent.MoveToFront(e)
			s.mu.Unlock()
			return r.scan, r.err, true
		}
	}
	pending := s.asked[key] != nil
	s.mu.Unlock()
	if pending {
		return nil, nil, false
	}
	scan, err := s.shelf.read(key)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.L.WithError(err).Debug("forefend daemon: a kept scan cannot be read")
		}
		return nil, nil, false
	}
	s.o.Rate(scan)
	s.remember(&result{key: key, scan: scan, at: time.Now()})
	return scan, nil, true
}

func (s *Scans) remember(r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.known[r.key]; old != nil {
		s.recent.Remove(old)
	}
	s.known[r.key] = s.recent.PushFront(r)
	if s.recent.Len() > maxInMemory {
		delete(s.known, s.recent.Remove(s.recent.Back()).(*result).key)
	}
}

// Rerate has scans rated again that are in memory: what Rate knows has changed. Failures are not tried again for that.
func (s *Scans) Rerate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.recent.Front(); e != nil; e = e.Next() {
		r := e.Value.(*result)
		if r.scan == nil {
			continue
		}
		scan := *r.scan // the old one may be in use
		scan.Vulnerabilities = slices.Clone(scan.Vulnerabilities)
		s.o.Rate(&scan)
		e.Value = &result{key: r.key, scan: &scan, err: r.err, at: r.at}
	}
}

// Ask makes sure that a scan is made, unless too many wait already, and returns how long it is worth waiting for it:
// whoever comes after the first container of an image waits no longer than that one.
func (s *Scans) Ask(r Request) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.asked[r.Key]; j != nil {
		r.end()
		return max(0, s.o.Wait-time.Since(j.asked))
	}
	if len(s.queue) >= maxQueue {
		r.end()
		s.o.Done(OutcomeDropped, 0)
		return 0
	}
	j := &job{Request: r, asked: time.Now(), done: make(chan struct{})}
	s.asked[r.Key] = j
	s.queue = append(s.queue, j)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.o.Wait
}

func (r Request) end() {
	if r.release != nil {
		r.release()
	}
}

// Await waits until the scan of what a container runs has come out or ctx ends. One that was not asked for is not
// waited for.
func (s *Scans) Await(ctx context.Context, f workload.Facts) {
	r, ok := RequestOf(f)
	if !ok {
		return
	}
	s.mu.Lock()
	j := s.asked[r.Key]
	s.mu.Unlock()
	if j == nil {
		return
	}
	timer := time.NewTimer(max(0, s.o.Wait-time.Since(j.asked)))
	defer timer.Stop()
	select {
	case <-j.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Run scans what is asked for, one after the other, until ctx ends.
func (s *Scans) Run(ctx context.Context) {
	for {
		j := s.next()
		if j == nil {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
				continue
			}
		}
		s.scan(ctx, j)
		if ctx.Err() != nil {
			return
		}
	}
}

func (s *Scans) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	j := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	return j
}

func (s *Scans) scan(ctx context.Context, j *job) {
	defer func() {
		j.end()
		s.mu.Lock()
		delete(s.asked, j.Key)
		s.mu.Unlock()
		close(j.done)
	}()
	if _, err := s.shelf.read(j.Key); err == nil {
		return // the command line was faster
	}
	began := time.Now()
	scan, err := s.o.Scan(ctx, j.Request)
	took := time.Since(began)
	if ctx.Err() != nil {
		return // nobody asks any more
	}
	fields := log.Fields{"workload": j.Name, "key": j.Key, "took": took.Round(time.Millisecond).String()}
	if err != nil {
		s.o.Done(OutcomeFailed, took)
		s.remember(&result{key: j.Key, err: fmt.Errorf("the scan failed: %w", err), at: time.Now()})
		log.G(ctx).WithFields(fields).WithError(err).Warn("forefend: scan failed")
		return
	}
	scan.Key = j.Key
	outcome := OutcomeOK
	if !scan.Complete() {
		outcome = OutcomeIncomplete
	}
	s.o.Done(outcome, took)
	if err := s.shelf.write(&scan); err != nil {
		log.G(ctx).WithError(err).Warn("forefend: scan not kept")
	}
	s.o.Rate(&scan)
	s.remember(&result{key: j.Key, scan: &scan, at: time.Now()})
	fields["calls"], fields["unknown"], fields["programs"] = len(scan.Syscalls), len(scan.Unknown), len(scan.Programs)
	log.G(ctx).WithFields(fields).Info("forefend: scanned")
}
