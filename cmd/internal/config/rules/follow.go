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

// lookEvery is how often a Follower looks whether files changed, beside what the kernel tells it.
const lookEvery = time.Second

// Follower keeps the rules of a directory in force.
type Follower struct {
	*Current
	path    string
	options pdp.Options
	report  func(Reload)
	every   time.Duration // lookEvery, or what a test says before Run

	mu     sync.Mutex
	seen   map[string]stamps.Stamp // guarded by mu
	looked string                  // what was wrong with the directory; guarded by mu
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
	f := &Follower{Current: NewCurrent(), path: path, options: o, report: report, every: lookEvery}
	f.Look()
	return f
}

// Run follows changes until ctx ends: it is told of them by the kernel, and looks every second where it is not.
func (f *Follower) Run(ctx context.Context) {
	w := newWatch(f.path)
	defer w.close()
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	f.Look() // what changed before anybody was told
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.errors(): // events were lost
			f.Look()
		case <-w.changes():
			if w.settle(ctx) {
				f.Look()
			}
		case <-tick.C:
			w.renew()
			f.Look()
		}
	}
}

// Look reads the rules again if a file changed. Run and NewFollower do so.
func (f *Follower) Look() {
	seen, err := stamps.Look(f.path, Wanted)
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
	if err == nil {
		f.Take(d.Set)
	}
	set, epoch := f.Rules()
	r := Reload{Path: filepath.Clean(f.path), Epoch: epoch, Err: err}
	if set != nil {
		r.Rules = set.Len()
	}
	f.report(r)
}
