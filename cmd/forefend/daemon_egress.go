package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/forefend/central"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/pdp/audit"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

const (
	// riskHolds is how long an answer that depends on a container's risk is good for where its shim is not told of changes.
	riskHolds = time.Second
	// maxAmong bounds of how many containers one asks that is not known.
	maxAmong = 256
	// maxEpochWait bounds how long a call for the next epoch waits.
	maxEpochWait = time.Minute
)

// egress decides about outbound requests of this node. It implements api.Decisions, api.Epochs and api.Audits.
type egress struct {
	decider requestDecider
	grace   time.Duration
	about   func(workload.ID) (orchestrator.Subject, bool)
	risks   func() <-chan struct{} // closed with the next change of a risk
	load    func() int             // of the node, percent
	audit   *audit.Book
	tokens  *tokens
}

var (
	_ api.Decisions = (*egress)(nil)
	_ api.Epochs    = (*egress)(nil)
	_ api.Audits    = (*egress)(nil)
)

// openEgress reads the rules, or prepares to ask the central daemon, if the site has an egress policy. The service and the store are
// there already.
func (d *daemon) openEgress(ctx context.Context) (err error) {
	cfg := &d.cfg.Egress
	if !cfg.Decides() {
		return nil
	}
	d.egress = &egress{
		grace: cfg.Grace,
		about: d.service.Subject,
		risks: d.service.RiskChange,
		load: func() int {
			l, _ := d.load.Load()
			return int(100 * l.CPU)
		},
		audit:  audit.New(),
		tokens: &tokens{cfg: cfg.Interception.Tokens},
	}
	if cfg.PDP == config.PDPRemote {
		d.egress.decider = elsewhere{d.centralClient(ctx)}
		return nil
	}
	tell := func(e api.Event, epoch uint64) {
		d.service.Tell(e)
		log.G(ctx).WithField("epoch", epoch).Info("forefend daemon: " + e.Message)
	}
	var own here
	if cfg.Stored() {
		if d.rules, err = bucket.Open(ctx, d.store, ruleOptions(d.cfg), time.Now, func(c bucket.Change) { tell(storedEvent(c), c.Epoch) }); err != nil {
			return err
		}
		own = here{rules: d.rules.Current}
	} else {
		f := rules.NewFollower(cfg.Rules, ruleOptions(d.cfg), func(r rules.Reload) { tell(ruleEvent(r), r.Epoch) })
		own = here{f.Current, f.Run}
	}
	d.egress.decider = own
	if cfg.Serve.Listen != "" {
		d.openCentral(ctx, own)
	}
	return nil
}

// centralClient asks the central daemon of the configuration.
func (d *daemon) centralClient(ctx context.Context) *central.Client {
	cfg := d.cfg.Egress.Remote
	who := &credentials.Files{CA: cfg.CA, Cert: cfg.Cert, Key: cfg.Key}
	if err := who.Check(); err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("no central decisions, outbound requests are denied: %v", err))
	}
	var last string
	return central.NewClient(central.ClientConfig{
		Dial: who.Dialer(cfg.Address, cfg.Name), Within: d.cfg.Egress.DecideWithin, Grace: d.cfg.Egress.Grace,
		Report: func(s central.State) {
			e := centralEvent(cfg.Address, s)
			if e.Message != last { // it is told once how it stands
				last = e.Message
				d.service.Tell(e)
				log.G(ctx).WithField("epoch", s.Epoch).Info("forefend daemon: " + e.Message)
			}
		},
	})
}

// centralEvent tells how it stands with the central daemon.
func centralEvent(address string, s central.State) api.Event {
	e := api.Event{Time: time.Now(), Kind: api.EventRules, Fields: map[string]string{"central": address}}
	switch {
	case s.Away == nil:
		e.Message = fmt.Sprintf("outbound requests are decided by %s", address)
		return e
	case s.Ended:
		e.Message = fmt.Sprintf("the central decision point %s is away, and nothing that was decided holds any more: outbound requests are denied: %v", address, s.Away)
	default:
		e.Message = fmt.Sprintf("the central decision point %s is away, known decisions hold for the time being: %v", address, s.Away)
	}
	e.Fields["error"] = "true"
	return e
}

// openCentral listens for other nodes. Without it the daemon decides for its own node all the same.
func (d *daemon) openCentral(ctx context.Context, own here) {
	cfg := d.cfg.Egress.Serve
	who := &credentials.Files{CA: cfg.CA, Cert: cfg.Cert, Key: cfg.Key}
	err := who.Check()
	if err == nil {
		d.nodes, err = net.Listen("tcp", cfg.Listen)
	}
	if err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("no decisions for other nodes: %v", err))
		log.G(ctx).WithError(err).Error("forefend daemon: it decides for no other node")
		return
	}
	d.central = central.NewServer(forNodes{own, d.egress.audit}, who, cfg.Names, cfg.Rate)
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
func (e *egress) Decide(ctx context.Context, r api.DecideRequest) (flow.Decision, error) {
	if r.Version != flow.Version {
		return flow.Decision{}, fmt.Errorf("a request of version %d, this daemon understands %d: %w", r.Version, flow.Version, errdefs.ErrNotImplemented)
	}
	if len(r.Among) > maxAmong {
		return flow.Decision{}, fmt.Errorf("one of %d containers asks, the most is %d: %w", len(r.Among), maxAmong, errdefs.ErrInvalidArgument)
	}
	ids := r.Among
	if len(ids) == 0 {
		ids = []workload.ID{{Namespace: r.Context.Namespace, Container: r.Context.Container}}
	}
	proved := r.Context.UserProof != flow.Verified || !r.Proves || e.prove(&r)
	answers := make([]flow.Decision, 0, len(ids))
	var who []string
	for _, id := range ids {
		d, name, err := e.decideFor(ctx, id, r.Context)
		if err != nil {
			return d, err
		}
		answers, who = append(answers, d), append(who, name)
	}
	d := pdp.Strictest(answers)
	if !r.Told && slices.Contains(d.Depends, flow.FieldRisk) && (d.Valid == 0 || d.Valid > riskHolds) {
		d.Valid = riskHolds
	}
	if !proved {
		d.Reason += "; the daemon finds the token of " + r.Context.User + " not valid, who is a claim then"
		d.Valid = cmp.Or(min(d.Valid, riskHolds), riskHolds) // the keys may have changed just now
	}
	slices.Sort(who)
	e.audit.Note("", strings.Join(slices.Compact(who), " or "), &d, time.Now())
	return d, nil
}

// DecideMany implements api.Batches.
func (e *egress) DecideMany(ctx context.Context, r api.DecideManyRequest) (api.DecideManyResponse, error) {
	if len(r.Requests) > api.MaxDecisions {
		return api.DecideManyResponse{}, fmt.Errorf("%d requests at once, the most is %d: %w", len(r.Requests), api.MaxDecisions, errdefs.ErrInvalidArgument)
	}
	if len(r.Requests) > 0 {
		return api.DecideManyResponse{Decisions: e.decideEach(ctx, r.Requests)}, nil
	}
	all, err := r.Many.Contexts(api.MaxDecisions)
	if err != nil {
		return api.DecideManyResponse{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	requests := make([]api.DecideRequest, len(all))
	for i, c := range all {
		requests[i] = api.DecideRequest{Version: r.Version, Context: c, Token: c.Credential, Proves: r.Proves, Among: r.Among, Told: r.Told}
	}
	var out api.DecideManyResponse
	for _, d := range e.decideEach(ctx, requests) {
		out.Answers.Add(d)
	}
	return out, nil
}

// decidedAtOnce is of how many of many requests a central decision point is asked at once: it answers those with few messages.
const decidedAtOnce = 32

// decideEach decides about requests; nil: it cannot.
func (e *egress) decideEach(ctx context.Context, all []api.DecideRequest) []*flow.Decision {
	answers := make([]*flow.Decision, len(all))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(len(all), decidedAtOnce) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				if d, err := e.Decide(ctx, all[i]); err == nil {
					answers[i] = &d
				}
			}
		})
	}
	group.Wait()
	return answers
}

// prove verifies the token of a request, whose subject is its user. Without a valid one the user is a claim, which lowers nothing: it is the word
// of an agent, which may have been taken over.
func (e *egress) prove(r *api.DecideRequest) bool {
	if user, ok := e.tokens.user(time.Now(), string(r.Token)); ok {
		r.Context.User = user
		return true
	}
	r.Context.UserProof = flow.Claimed
	return false
}

// decideFor decides for one container, whose workload it names.
func (e *egress) decideFor(ctx context.Context, id workload.ID, c flow.Context) (d flow.Decision, name string, err error) {
	subject, ok := e.about(id)
	if !ok {
		epoch, _, err := e.decider.watch()
		return refusal("denied: the daemon knows no such running container", epoch), "", err
	}
	c.Namespace, c.Container = id.Namespace, id.Container
	c.Workload, c.Image, c.Risk, c.Label = subject.Workload, subject.Image, subject.Risk, cmp.Or(subject.Label, c.Label)
	d, err = e.decider.decide(ctx, &c, e.load())
	return d, subject.Workload, err
}

// Epoch implements api.Epochs.
func (e *egress) Epoch(ctx context.Context, r api.EpochRequest) (api.EpochResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, min(max(r.Wait, 0), maxEpochWait))
	defer cancel()
	for {
		epoch, changed, err := e.decider.watch()
		if err != nil {
			return api.EpochResponse{}, err
		}
		risk := e.risks()
		answer := api.EpochResponse{Epoch: epoch, Grace: e.grace, Risks: e.moved(r.Risks)}
		if epoch != r.After || len(answer.Risks) > 0 {
			return answer, nil
		}
		select {
		case <-changed:
		case <-risk:
		case <-ctx.Done():
			return answer, nil
		}
	}
}

// moved returns the containers that have another risk than their agents decide by, where rules ask for it.
func (e *egress) moved(known map[string]int) map[string]int {
	if len(known) == 0 || !e.decider.asksRisk() {
		return nil
	}
	moved := make(map[string]int)
	for id, risk := range known {
		namespace, container, _ := strings.Cut(id, "/")
		if now, ok := e.about(workload.ID{Namespace: namespace, Container: container}); ok && now.Risk != risk {
			moved[id] = now.Risk
		}
	}
	return moved
}

// Audit implements api.Audits.
func (e *egress) Audit(context.Context) (r api.AuditResponse, err error) {
	r.Classes, r.Dropped = e.audit.Classes()
	return r, nil
}
