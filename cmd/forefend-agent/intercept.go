package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
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
	// maxAccounts is how many accounts of connections one message has.
	maxAccounts = 1000
)

// interceptor is netns/intercept as the agent knows it. It implements agent.Interceptor, intercept.Decider and intercept.Finder.
type interceptor struct {
	asker     agent.Asker
	dialer    again
	contacts  *contacts
	whose     *containers
	engine    *intercept.Engine
	decisions *cache.Cache

	// within is how long a decision may take that is not kept here, its way through shim and daemon included, before the request
	// is denied: a time.Duration.
	within atomic.Int64

	deciding, leading, finding turns

	turn   sync.Mutex // keeps a decision from being kept once Forget has come
	forgot uint64     // how often; guarded by turn

	mu         sync.Mutex
	port       uint16                 // 0: it has not begun; guarded by mu
	ways       map[wayKey]*wayFor     // guarded by mu
	waysForgot uint64                 // how often; guarded by mu
	dialling   map[*dialling]struct{} // guarded by mu

	ctx      context.Context // of questions nobody waits for; ends with Close
	stop     context.CancelFunc
	renewing sync.WaitGroup // of those
}

// How many questions of a kind are with the shim at once: together fewer than it takes (api.MaxAsks). Others wait, each for as long as it
// may take: who comes with a thousand connections at once is not refused for that.
const (
	decisionsAtOnce  = 32
	waysAtOnce       = 16
	processesAtOnce  = 6
	containersAtOnce = 2
)

// turns is for how many there is room.
type turns chan struct{}

// take waits for one's turn; after it, the answer may be known.
func (t turns) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("too many questions before it: %w", ctx.Err())
	}
}

func (t turns) give() { <-t }

// newInterceptor makes one that has not begun.
func newInterceptor(asker agent.Asker) (agent.Interceptor, error) {
	i := &interceptor{asker: asker, decisions: cache.New(cached), ways: make(map[wayKey]*wayFor), dialling: make(map[*dialling]struct{}),
		deciding: make(turns, decisionsAtOnce), leading: make(turns, waysAtOnce), finding: make(turns, processesAtOnce)}
	i.ctx, i.stop = context.WithCancel(context.Background())
	i.dialer = again{i}
	engine, err := intercept.New(i, i.dialer, intercept.Limits{})
	if err != nil {
		i.stop()
		return nil, err
	}
	i.engine, i.contacts, i.whose = engine, newContacts(asker), newContainers(asker)
	engine.Find(i)
	engine.Attribute(i.whose)
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
	i.whose.set(d.Containers)
	i.contacts.only(&d)
	i.engine.Set(set)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.port == 0 {
		if i.port, err = i.begin(); err != nil {
			return api.InterceptResponse{}, fmt.Errorf("listen for what is led here: %w", err)
		}
	}
	return api.InterceptResponse{Port: i.port}, nil
}

// begin takes connections, and queries for names, on one port.
func (i *interceptor) begin() (port uint16, err error) {
	for range 16 {
		listeners, err := intercept.Listen(0)
		if err != nil {
			return 0, err
		}
		port = uint16(listeners[0].Addr().(*net.TCPAddr).Port)
		packets, err := intercept.ListenPackets(port)
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // nobody knows it yet
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			return 0, err
		}
		for _, l := range listeners {
			go func() { _ = i.engine.Serve(l) }() // until Close
		}
		for _, l := range packets {
			go func() { _ = i.engine.ServePackets(l, i.dialer) }() // likewise
		}
		return port, nil
	}
	return 0, errors.New("no port is free for both connections and datagrams")
}

// Forget implements agent.Interceptor.
func (i *interceptor) Forget(r api.ForgetRequest) error {
	i.turn.Lock()
	i.forgot++
	i.decisions.Reset(r.Epoch)
	i.turn.Unlock()
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
	counters, failed := json.Marshal(i.engine.Counters())
	return api.FlowsResponse{Flows: body, Counters: counters}, errors.Join(err, failed)
}

// Accounts implements agent.Interceptor.
func (i *interceptor) Accounts(r api.AccountsRequest) (api.AccountsResponse, error) {
	body, err := json.Marshal(i.engine.Accounts(r.Next, r.Live, maxAccounts))
	return api.AccountsResponse{Accounts: body}, err
}

// Close implements agent.Interceptor.
func (i *interceptor) Close() {
	i.stop()
	i.engine.Close()
	i.renewing.Wait()
	i.contacts.close()
}

// Known implements intercept.Rememberer.
func (i *interceptor) Known(c *flow.Context) *flow.Decision { return i.decisions.Get(c, time.Now()) }

// Decide implements intercept.Decider.
func (i *interceptor) Decide(ctx context.Context, c flow.Context) (flow.Decision, error) {
	if d := i.decisions.Get(&c, time.Now()); d != nil {
		return *d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(i.within.Load()))
	defer cancel()
	if err := i.deciding.take(ctx); err != nil {
		return flow.Decision{}, fmt.Errorf("no decision: %w", err)
	}
	defer i.deciding.give()
	if d := i.decisions.Get(&c, time.Now()); d != nil {
		return *d, nil
	}
	for {
		before := i.forgets()
		var d flow.Decision
		if err := ask(ctx, i.asker, api.AskDecide, egress.DecideQuestion{Context: c, Token: c.Credential}, &d); err != nil {
			return flow.Decision{}, fmt.Errorf("no decision: %w", err)
		}
		if d.Version != flow.Version {
			return flow.Decision{}, fmt.Errorf("a decision of version %d, this agent understands %d", d.Version, flow.Version)
		}
		if i.keep(&c, d, before) {
			return d, nil
		}
	}
}

func (i *interceptor) forgets() uint64 {
	i.turn.Lock()
	defer i.turn.Unlock()
	return i.forgot
}

// keep keeps a decision unless it was overtaken on its way by Forget: by other rules, or by another risk under the same ones.
func (i *interceptor) keep(c *flow.Context, d flow.Decision, before uint64) bool {
	i.turn.Lock()
	defer i.turn.Unlock()
	epoch := i.decisions.Epoch()
	if i.forgot != before || d.Epoch < epoch {
		return false
	}
	if d.Epoch > epoch {
		i.decisions.Reset(d.Epoch)
	}
	i.decisions.Put(c, d, time.Now())
	return true
}

// Process implements intercept.Finder. The shim sees the container's processes, the agent does not.
func (i *interceptor) Process(ctx context.Context, local, remote netip.AddrPort) (p flow.Process, err error) {
	if err := i.finding.take(ctx); err != nil {
		return p, err
	}
	defer i.finding.give()
	err = ask(ctx, i.asker, api.AskProcess, egress.ProcessQuestion{Local: local, Remote: remote}, &p)
	return p, err
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
