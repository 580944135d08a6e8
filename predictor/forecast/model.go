package forecast

import (
	"fmt"
	"math"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// Config says what a Model promises. The zero value of a field means its default.
type Config struct {
	Coverage float64       // share of windows that stay under their bound; default 0.99
	Window   time.Duration // default an hour
	Horizon  time.Duration // how far ahead a limit's reaching is told; default a minute
	Weights  [][]float32   // of the networks, from Fit; default those that ship
}

// Model is what a node knows about how use develops. It may be used by any number of goroutines.
type Model struct {
	config  Config
	observe func(resource string, e Example)

	mu    sync.Mutex // guards pools and everything in them, tracks included
	pools map[string]*pool
}

// New returns a model that knows what ships with it.
func New(c Config) *Model {
	if !(c.Coverage > 0 && c.Coverage < 1) {
		c.Coverage = 0.99
	}
	if c.Window <= 0 {
		c.Window = time.Hour
	}
	if c.Horizon <= 0 {
		c.Horizon = time.Minute
	}
	if len(c.Weights) == 0 {
		c.Weights = shipped
	}
	return &Model{config: c, pools: make(map[string]*pool)}
}

// Horizon is how far ahead the reaching of a limit is told.
func (m *Model) Horizon() time.Duration { return m.config.Horizon }

// Observe has every window that closes told to f, for Fit. Call it before the first Track.
func (m *Model) Observe(f func(resource string, e Example)) { m.observe = f }

func (m *Model) pool(resource string) *pool {
	p := m.pools[resource]
	if p == nil {
		p = newPool(1-m.config.Coverage, m.config.Weights)
		m.pools[resource] = p
	}
	return p
}

// Track follows one resource of one container.
type Track struct {
	model    *Model
	resource string
	ceiling  float64
	pool     *pool

	series  series
	x       [features]float32
	ref     float64
	outlook *outlook
	recent  recent  // samples, for the limit
	expects bool    // x, ref and outlook are of the filling window
	bound   float64 // promised for the filling window; 0: not yet
	risk    float64 // of bound
}

// Track returns the track of a resource of a new container. ceiling is the highest value it can have (its limit, the
// node's size), 0 where there is none.
func (m *Model) Track(resource string, ceiling float64) *Track {
	if !(ceiling > 0) || math.IsInf(ceiling, 0) {
		ceiling = 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pool(resource)
	return &Track{model: m, resource: resource, ceiling: ceiling, pool: p, series: series{window: m.config.Window}, recent: recent{apart: m.config.Horizon / 32}}
}

// Advance tells that time has come to now: a window that has ended is learned from.
func (t *Track) Advance(now time.Time) {
	t.model.mu.Lock()
	defer t.model.mu.Unlock()
	t.advance(now)
}

func (t *Track) advance(now time.Time) {
	done, ok := t.series.closeUntil(now)
	if !ok {
		return
	}
	if t.ceiling > 0 {
		t.pool.overshoot(done.Peak / t.ceiling)
	}
	if t.expects {
		if t.bound == 0 {
			t.bound, t.risk = t.pool.bound(t.outlook)
		}
		e := Example{X: append([]float32(nil), t.x[:]...), Y: t.series.log(done.Peak) - t.ref}
		e.Capped = t.hardCeiling() > 0 && done.Peak >= t.hardCeiling()*(1-grain/2)
		t.pool.learn(&e, t.bound, t.risk, done.Peak)
		if t.model.observe != nil {
			t.model.observe(t.resource, e)
		}
	}
	t.look()
}

// look describes the series at the end of a window and says what the next one may bring.
func (t *Track) look() {
	t.ref = t.series.describe(&t.x, t.ceiling)
	t.outlook = newOutlook(mixtures(t.pool.nets, &t.x), math.Exp(t.ref), t.hardCeiling())
	t.pool.offer(t.outlook)
	t.expects, t.bound = true, 0
}

// highest is more than any resource has; its square is still a number.
const highest = 1e120

// Add takes a sample. Those that are not numbers, negative, absurdly high, or older than the last are left out.
func (t *Track) Add(at time.Time, v float64) {
	if !(v >= 0 && v < highest) || at.Before(t.series.last) {
		return
	}
	t.model.mu.Lock()
	defer t.model.mu.Unlock()
	t.advance(at)
	t.promise()
	t.series.add(at, v)
	t.recent.add(at, v)
}

func (t *Track) promise() {
	if t.expects && t.bound == 0 {
		t.bound, t.risk = t.pool.bound(t.outlook)
	}
}

// Forecast tells what is expected at now. limit is the value whose reaching matters, 0 for none.
func (t *Track) Forecast(now time.Time, limit float64) evidence.Forecast {
	t.model.mu.Lock()
	defer t.model.mu.Unlock()
	t.advance(now)
	t.promise()
	f := evidence.Forecast{
		Resource: t.resource, Now: t.series.value, Window: t.model.config.Window,
		Bound: t.bound, Coverage: t.model.config.Coverage, Basis: t.basis(),
	}
	if t.bound > 0 && t.series.filling.N > 0 && t.series.filling.Peak > t.bound {
		f.Bound = t.series.filling.Peak * max(1.1, t.bound/t.outlook.Size) // exceeded already: what held before holds no more
		if c := t.hardCeiling(); c > 0 {
			f.Bound = min(f.Bound, c)
		}
	}
	f.Slope = t.recent.slope()
	if limit > 0 && !math.IsInf(limit, 0) {
		f.Limit, f.Horizon = limit, t.model.config.Horizon
		f.Probability, f.TimeToLimit = t.recent.reach(now, limit, f.Horizon)
	}
	if t.series.seasonal() {
		f.Season = day
	}
	return f
}

func (t *Track) basis() string {
	if !t.expects {
		return "no window has ended yet"
	}
	return fmt.Sprintf("%d windows of this container, %d of the node", t.series.runs, t.pool.windows)
}

// hardCeiling is the value that is not expected to be exceeded, 0 where there is none: a ceiling that was exceeded is
// none. CPU goes above its nominal capacity where clocks rise.
func (t *Track) hardCeiling() float64 {
	over := t.series.top / max(t.ceiling, tiny)
	if t.resource == "cpu" {
		if over < maxOvershoot {
			return t.ceiling * max(t.pool.over, over*1.002)
		}
		return 0
	}
	if over > 1 {
		return 0
	}
	return t.ceiling
}
