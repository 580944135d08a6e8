package rules

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/stamps"
)

// lookEvery is how often a Follower looks whether files changed.
const lookEvery = time.Second

// Follower keeps the rules of a directory. Each set of rules has an epoch: a number that only grows, also from one daemon to the
// next, since it begins with the time.
type Follower struct {
	path    string
	options pdp.Options
	report  func(Reload)

	mu      sync.Mutex
	seen    map[string]stamps.Stamp // guarded by mu
	looked  string                  // what was wrong with the directory; guarded by mu
	set     *pdp.Set                // nil: there were never rules in order; guarded by mu
	epoch   uint64                  // guarded by mu
	changed chan struct{}           // closed with the next epoch; guarded by mu
}

// Reload is what became of rules that changed.
type Reload struct {
	Path  string
	Rules int    // in force
	Epoch uint64 // in force
	Err   error  // why the new ones are not: config.Problems, or what is wrong with the directory
}

// NewFollower reads the rules of path. report is told of each change, of this first reading too, from one goroutine at a time.
// Until rules were in order once there is no set, and nothing may leave.
func NewFollower(path string, o pdp.Options, report func(Reload)) *Follower {
	f := &Follower{path: path, options: o, report: report, changed: make(chan struct{})}
	f.epoch = uint64(time.Now().UnixMilli())
	f.Look()
	return f
}

// Run looks for changes until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.Look()
		}
	}
}

// Look reads the rules again if a file changed. Run and NewFollower do so.
func (f *Follower) Look() {
	seen, err := stamps.Look(f.path, wanted)
	looked := ""
	if err != nil {
		looked = err.Error()
	}
	f.mu.Lock()
	same := f.seen != nil && looked == f.looked && maps.EqualFunc(seen, f.seen, stamps.Stamp.Same)
	f.seen, f.looked = seen, looked
	if f.seen == nil {
		f.seen = map[string]stamps.Stamp{}
	}
	f.mu.Unlock()
	if same {
		return
	}
	var d *Directory
	if err == nil {
		d, err = Load(f.path, f.options)
	} else {
		err = fmt.Errorf("egress rules: %w", err)
	}
	f.mu.Lock()
	if err == nil {
		f.set = d.Set
		f.epoch = max(f.epoch+1, uint64(time.Now().UnixMilli()))
		close(f.changed)
		f.changed = make(chan struct{})
	}
	r := Reload{Path: filepath.Clean(f.path), Epoch: f.epoch, Err: err}
	if f.set != nil {
		r.Rules = f.set.Len()
	}
	f.mu.Unlock()
	f.report(r)
}

// Rules returns the rules in force and their epoch; nil: there are none that are in order.
func (f *Follower) Rules() (*pdp.Set, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set, f.epoch
}

// Await returns the epoch once it is not after any more, or ctx ends.
func (f *Follower) Await(ctx context.Context, after uint64) uint64 {
	for {
		f.mu.Lock()
		epoch, changed := f.epoch, f.changed
		f.mu.Unlock()
		if epoch != after {
			return epoch
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return epoch
		}
	}
}
