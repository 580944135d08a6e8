package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

const (
	// riskHolds is how long an answer that depends on a container's risk is good for: agents are not told when that changes.
	riskHolds = time.Second
	// maxEpochWait bounds how long a call for the next epoch waits.
	maxEpochWait = time.Minute
)

// egress decides about outbound requests of this node. It implements api.Decisions and api.Epochs.
type egress struct {
	rules *rules.Follower
	grace time.Duration
	about func(workload.ID) (orchestrator.Subject, bool)
	load  func() int // of the node, percent
}

var (
	_ api.Decisions = (*egress)(nil)
	_ api.Epochs    = (*egress)(nil)
)

// openEgress reads the rules, if the site has any. The service is there already.
func (d *daemon) openEgress(ctx context.Context) {
	if d.cfg.Egress.Rules == "" {
		return
	}
	d.egress = &egress{
		rules: rules.NewFollower(d.cfg.Egress.Rules, ruleOptions(d.cfg), func(r rules.Reload) {
			e := ruleEvent(r)
			d.service.Tell(e)
			log.G(ctx).WithField("epoch", r.Epoch).Info("forefend daemon: " + e.Message)
		}),
		grace: d.cfg.Egress.Grace,
		about: d.service.Subject,
		load: func() int {
			l, _ := d.load.Load()
			return int(100 * l.CPU)
		},
	}
}

// ruleEvent tells of rules that were read.
func ruleEvent(r rules.Reload) api.Event {
	e := api.Event{Time: time.Now(), Kind: api.EventRules, Fields: map[string]string{"epoch": fmt.Sprint(r.Epoch)}}
	e.Message = fmt.Sprintf("egress rules of %s: %s in force", r.Path, plural(r.Rules, "rule"))
	if r.Err != nil {
		const most = 2000 // of what may be thousands of problems
		why := r.Err.Error()
		e.Message = fmt.Sprintf("egress rules of %s are not in order, what was in force stays (%s): %s", r.Path, plural(r.Rules, "rule"), why[:min(len(why), most)])
		e.Fields["error"] = "true"
	}
	return e
}

// Decide implements api.Decisions. The shim says whose request it is; what that is and at what risk is known here.
func (e *egress) Decide(_ context.Context, r api.DecideRequest) (flow.Decision, error) {
	if r.Version != flow.Version {
		return flow.Decision{}, fmt.Errorf("a request of version %d, this daemon understands %d: %w", r.Version, flow.Version, errdefs.ErrNotImplemented)
	}
	set, epoch := e.rules.Rules()
	refuse := func(why string) (flow.Decision, error) {
		return flow.Decision{Version: flow.Version, Profile: flow.Profile{Deny: true}, Reason: why, Epoch: epoch, Valid: riskHolds}, nil
	}
	if set == nil {
		return refuse("denied: the rules are not in order (forefend policy check)")
	}
	c := r.Context
	subject, ok := e.about(workload.ID{Namespace: c.Namespace, Container: c.Container})
	if !ok {
		return refuse("denied: the daemon knows no such running container")
	}
	c.Workload, c.Image, c.Risk, c.Label = subject.Workload, subject.Image, subject.Risk, subject.Label
	d := set.Decide(&c, pdp.Moment{Now: time.Now(), Load: e.load()})
	d.Epoch = epoch
	if slices.Contains(d.Depends, flow.FieldRisk) && (d.Valid == 0 || d.Valid > riskHolds) {
		d.Valid = riskHolds
	}
	return d, nil
}

// Epoch implements api.Epochs.
func (e *egress) Epoch(ctx context.Context, r api.EpochRequest) (api.EpochResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, min(max(r.Wait, 0), maxEpochWait))
	defer cancel()
	return api.EpochResponse{Epoch: e.rules.Await(ctx, r.After), Grace: e.grace}, nil
}
