package main

import (
	"context"
	"time"

	"forefend.dev/forefend/cmd/forefend/central"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/pdp/audit"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// requestDecider answers about requests of which all is filled in that the node knows.
type requestDecider interface {
	// decide answers. An error means that it cannot be decided.
	decide(ctx context.Context, c *flow.Context, load int) (flow.Decision, error)
	// watch returns the epoch of the rules in force, and what is closed when it may be another one. An error says that there is
	// none: agents go on with what they know for the grace.
	watch() (epoch uint64, changed <-chan struct{}, err error)
	// asksRisk tells whether those rules ask for the risk of containers.
	asksRisk() bool
	run(ctx context.Context)
}

// here decides by rules of this node.
type here struct {
	rules  *rules.Current
	follow func(context.Context) // nil: nobody changes them but through the daemon
}

func (h here) decide(_ context.Context, c *flow.Context, load int) (flow.Decision, error) {
	set, epoch := h.rules.Rules()
	if set == nil {
		return refusal("denied: the rules are not in order (forefend policy check, forefend events)", epoch), nil
	}
	d := set.Decide(c, pdp.Moment{Now: time.Now(), Load: load})
	d.Epoch = epoch
	return d, nil
}

func (h here) watch() (uint64, <-chan struct{}, error) {
	epoch, changed := h.rules.Watch()
	return epoch, changed, nil
}

func (h here) asksRisk() bool {
	set, _ := h.rules.Rules()
	return set != nil && set.Asks(flow.FieldRisk)
}

func (h here) run(ctx context.Context) {
	if h.follow != nil {
		h.follow(ctx)
	}
}

// refusal denies for a reason that may pass.
func refusal(why string, epoch uint64) flow.Decision {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Deny: true}, Reason: why, Epoch: epoch, Valid: riskHolds}
}

// elsewhere has a central daemon decide.
type elsewhere struct{ client *central.Client }

func (e elsewhere) decide(ctx context.Context, c *flow.Context, load int) (flow.Decision, error) {
	return e.client.Decide(ctx, c, load, time.Now())
}

func (e elsewhere) watch() (uint64, <-chan struct{}, error) { return e.client.Watch() }
func (e elsewhere) asksRisk() bool                          { return e.client.AsksRisk() }
func (e elsewhere) run(ctx context.Context)                 { e.client.Run(ctx) }

// forNodes decides for other nodes, by the rules of this one. It implements central.Decider.
type forNodes struct {
	here
	audit *audit.Book
}

// Decide implements central.Decider.
func (f forNodes) Decide(node string, q *api.Question) flow.Decision {
	d, _ := f.decide(context.Background(), &q.Context, q.Load) // it has no errors
	f.audit.Note(node, q.Context.Workload, &d, time.Now())
	return d
}

// Await implements central.Decider.
func (f forNodes) Await(ctx context.Context, after uint64) (uint64, bool) {
	epoch := f.rules.Await(ctx, after)
	return epoch, f.asksRisk()
}
