package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/agent"
	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/netns/pdp/cache"
)

const (
	// cached is how many decisions are kept.
	cached = 4096
	// decideWithin is how long a decision may take where the shim does not say.
	decideWithin = 50 * time.Millisecond
	// maxFlows is how many connections are told of, the youngest, and maxPath how much of a path: a message has its bound.
	maxFlows = 300
	maxPath  = 256
	// wayWait is how long a tunnel may take to be attached.
	wayWait = 8 * time.Second
)

// interceptor is netns/intercept as the agent knows it. It implements agent.Interceptor, intercept.Decider and intercept.Ways.
type interceptor struct {
	asker     agent.Asker
	engine    *intercept.Engine
	decisions *cache.Cache

	// within is how long a decision may take that is not kept here, its way through shim and daemon included, before the request
	// is denied: a time.Duration.
	within atomic.Int64

	mu   sync.Mutex
	port uint16            // 0: it has not begun; guarded by mu
	ways map[wayKey]wayFor // guarded by mu
}

// wayKey is what a way depends on.
type wayKey struct {
	encryption flow.Encryption
	dedicated  bool
	endpoint   string
	user       string // of a dedicated one
}

type wayFor struct {
	intercept.Way
	until time.Time
}

// newInterceptor makes one that has not begun.
func newInterceptor(asker agent.Asker) (agent.Interceptor, error) {
	i := &interceptor{asker: asker, decisions: cache.New(cached), ways: make(map[wayKey]wayFor)}
	engine, err := intercept.New(i, again{i, intercept.Marked{Ways: i}}, intercept.Limits{})
	if err != nil {
		return nil, err
	}
	i.engine = engine
	return i, nil
}

// Set implements agent.Interceptor.
func (i *interceptor) Set(r api.InterceptRequest) (api.InterceptResponse, error) {
	var d document.Document
	if err := json.Unmarshal(r.Settings, &d); err != nil {
		return api.InterceptResponse{}, fmt.Errorf("settings of the interceptor: %w", err)
	}
	set, err := intercept.SettingsOf(&d)
	if err != nil {
		return api.InterceptResponse{}, fmt.Errorf("settings of the interceptor: %w", err)
	}
	i.within.Store(int64(cmp.Or(d.DecideWithin, decideWithin))) // a shim of an older release says nothing
	i.engine.Set(set)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.port == 0 {
		listeners, err := intercept.Listen(0)
		if err != nil {
			return api.InterceptResponse{}, fmt.Errorf("listen for redirected connections: %w", err)
		}
		for _, l := range listeners {
			go func() { _ = i.engine.Serve(l) }() // until Close
		}
		i.port = uint16(listeners[0].Addr().(*net.TCPAddr).Port)
	}
	return api.InterceptResponse{Port: i.port}, nil
}

// Forget implements agent.Interceptor.
func (i *interceptor) Forget(r api.ForgetRequest) error {
	i.decisions.Reset(r.Epoch)
	i.engine.Redecide()
	return nil
}

// Flows implements agent.Interceptor.
func (i *interceptor) Flows() (api.FlowsResponse, error) {
	flows := i.engine.Flows()
	flows = flows[max(0, len(flows)-maxFlows):]
	for j := range flows {
		flows[j].Context.Path = flows[j].Context.Path[:min(len(flows[j].Context.Path), maxPath)]
	}
	body, err := json.Marshal(flows)
	return api.FlowsResponse{Flows: body}, err
}

// Close implements agent.Interceptor.
func (i *interceptor) Close() { i.engine.Close() }

// Decide implements intercept.Decider.
func (i *interceptor) Decide(ctx context.Context, c flow.Context) (flow.Decision, error) {
	if d := i.decisions.Get(&c, time.Now()); d != nil {
		return *d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(i.within.Load()))
	defer cancel()
	for {
		var d flow.Decision
		if err := ask(ctx, i.asker, api.AskDecide, c, &d); err != nil {
			return flow.Decision{}, fmt.Errorf("no decision: %w", err)
		}
		if d.Version != flow.Version {
			return flow.Decision{}, fmt.Errorf("a decision of version %d, this agent understands %d", d.Version, flow.Version)
		}
		if epoch := i.decisions.Epoch(); d.Epoch < epoch {
			continue // it was overtaken on its way, by Forget
		} else if d.Epoch > epoch {
			i.decisions.Reset(d.Epoch)
		}
		i.decisions.Put(&c, d, time.Now())
		return d, nil
	}
}

// Way implements intercept.Ways.
func (i *interceptor) Way(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Way, error) {
	key := keyOf(c, d)
	i.mu.Lock()
	known, ok := i.ways[key]
	i.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.Way, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wayWait)
	defer cancel()
	var w egress.Way
	if err := ask(ctx, i.asker, api.AskWay, egress.WayQuestion{Profile: d.Profile, User: key.user}, &w); err != nil {
		return intercept.Way{}, err
	}
	known = wayFor{intercept.Way{Tunnel: w.Tunnel, Mark: w.Mark, Device: w.Device}, time.Now().Add(w.Valid)}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.ways) >= cached { // of more users than tunnels
		clear(i.ways)
	}
	i.ways[key] = known
	return known.Way, nil
}

func keyOf(c flow.Context, d flow.Decision) wayKey {
	k := wayKey{encryption: d.Profile.Encryption, dedicated: d.Profile.Dedicated, endpoint: d.Profile.Endpoint}
	if k.dedicated {
		k.user = c.User
	}
	return k
}

// again asks once more for a way by which nobody could be reached: its tunnel may have been taken away.
type again struct {
	i *interceptor
	intercept.Marked
}

// Dial implements intercept.Dialer.
func (a again) Dial(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Upstream, error) {
	up, err := a.Marked.Dial(ctx, c, d)
	if err == nil || ctx.Err() != nil {
		return up, err
	}
	key := keyOf(c, d)
	a.i.mu.Lock()
	old, ok := a.i.ways[key]
	delete(a.i.ways, key)
	a.i.mu.Unlock()
	if !ok {
		return up, err
	}
	now, failed := a.i.Way(ctx, c, d)
	if failed != nil {
		return up, errors.Join(err, failed)
	}
	if now == old.Way {
		return up, err
	}
	return a.Marked.Dial(ctx, c, d)
}

// ask asks the shim a question in JSON.
func ask(ctx context.Context, asker agent.Asker, method string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("ask %s: %w", method, err)
	}
	got, err := asker.Ask(ctx, method, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(got, answer); err != nil {
		return fmt.Errorf("the answer to %s: %w", method, err)
	}
	return nil
}
