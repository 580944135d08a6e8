package shim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// aheadWithin is by how much tunnels that are likely to be asked for may delay the start of a container.
const aheadWithin = 100 * time.Millisecond

// paths are the ways out of one container: what its agent asked tunnels for, and what was there before it did.
type paths struct {
	once sync.Once

	mu    sync.Mutex
	asked map[string]uint64 // by workload.Way; guarded by mu
	ahead map[string]bool   // guarded by mu
	took  time.Duration     // guarded by mu
}

// prepare has the tunnels that the prediction names attached to a namespace, all at once, the first time that it is closed. Those that do not come in time, or
// that there are none of now, are attached on first use like any other.
func (a *seat) prepare(ctx context.Context, namespace uint64) {
	a.paths.once.Do(func() {
		likely := a.c.current().Prediction.Ways
		if len(likely) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, aheadWithin)
		defer cancel()
		begun := time.Now()
		var all sync.WaitGroup
		for _, l := range likely {
			all.Go(func() {
				way, err := workload.ParseWay(l.Way)
				if err != nil || a.s.cfg.Egress.Ahead(ctx, namespace, a.c.base().Workload, way) != nil {
					return
				}
				a.paths.mu.Lock()
				defer a.paths.mu.Unlock()
				if a.paths.ahead == nil {
					a.paths.ahead = make(map[string]bool)
				}
				a.paths.ahead[l.Way] = true
			})
		}
		all.Wait()
		a.paths.mu.Lock()
		a.paths.took = time.Since(begun)
		a.paths.mu.Unlock()
	})
}

// note counts what an agent asked a tunnel for. What it cannot be asked for again is not worth a place.
func (p *paths) note(question []byte) {
	var q struct {
		Profile flow.Profile `json:"profile"`
		User    string       `json:"user"`
	}
	if json.Unmarshal(question, &q) != nil {
		return
	}
	w := workload.Way{Encryption: q.Profile.Encryption.String(), Dedicated: q.Profile.Dedicated, Endpoint: q.Profile.Endpoint}
	if w.Dedicated {
		w.User = q.User
	}
	name := w.String()
	if again, err := workload.ParseWay(name); err != nil || again != w {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked == nil {
		p.asked = make(map[string]uint64)
	}
	if _, known := p.asked[name]; known || len(p.asked) < workload.MaxWays {
		p.asked[name]++
	}
}

// describe adds what an observation says of ways out.
func (p *paths) describe(o *workload.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.Ways = maps.Clone(p.asked)
	for _, name := range slices.Sorted(maps.Keys(p.ahead)) {
		if p.asked[name] > 0 {
			o.Ahead = append(o.Ahead, name)
		} else {
			o.Missed = append(o.Missed, name)
		}
	}
}

// show adds them to what people are told of an agent.
func (p *paths) show(to *api.Agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := maps.Clone(p.asked)
	for name := range p.ahead {
		if names == nil {
			names = make(map[string]uint64)
		}
		names[name] += 0
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		to.Ways = append(to.Ways, api.AgentWay{Way: name, Asked: names[name], Ahead: p.ahead[name]})
	}
	if len(p.ahead) > 0 {
		to.AheadTook = p.took
	}
}
