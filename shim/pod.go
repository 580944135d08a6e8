package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// EgressContainer is what an interceptor knows of a container.
type EgressContainer struct {
	Base   flow.Context // of all its requests; Data of those that say nothing of it
	Cgroup uint64       // id of its cgroup in the v2 hierarchy, in which its sockets are made
	Rules  GateRules    // whom it may contact
}

// unattributedHolds is how long an answer is good that holds for whichever container of a pod asked: there may be another one by then.
const unattributedHolds = time.Second

// joinDeadline is how long an agent may take to be told of a container: one that hangs holds up no start for longer.
const joinDeadline = 5 * time.Second

// leading is the seat whose agent takes the container's outbound connections: its own, in a pod the sandbox's; nil: none does.
func (a *seat) leading() *seat {
	switch {
	case a == nil:
		return nil
	case a.egress:
		return a
	case a.pod:
		return a.s.sandbox.Load()
	}
	return nil
}

// join has a container's connections told apart from others of its pod, from before its first process on.
func (a *seat) join(ctx context.Context, c *container) {
	a.mu.Lock()
	a.members = append(slices.DeleteFunc(a.members, func(m *container) bool { return m == c }), c)
	agent, namespace := a.agent, a.guarded
	a.mu.Unlock()
	if namespace != 0 {
		c.agent.prepare(ctx, namespace)
	}
	if agent == nil { // the one to come knows of it from its beginning
		return
	}
	a.s.epochs.join(c.id.String(), agent)
	a.telling.Lock()
	defer a.telling.Unlock()
	ctx, cancel := context.WithTimeout(ctx, joinDeadline)
	defer cancel()
	if err := a.tell(ctx, a.settings()); err != nil && a.ctx.Err() == nil {
		a.report(api.EventDegraded, fmt.Sprintf("its agent does not know of container %s of the pod, whose connections are held to the strictest of all for the time being: %v", c.id.Container, err), nil)
	}
}

// part forgets a container that has ended. The agent hears of it with the next one: until then it knows a cgroup in which nobody makes sockets.
func (a *seat) part(c *container) {
	a.mu.Lock()
	a.members = slices.DeleteFunc(a.members, func(m *container) bool { return m == c })
	delete(a.rules, c)
	a.mu.Unlock()
	a.s.epochs.leave(c.id.String())
}

// tell gives the agent that runs settings.
func (a *seat) tell(ctx context.Context, settings json.RawMessage) error {
	a.mu.Lock()
	agent := a.agent
	a.mu.Unlock()
	if i, ok := agent.(interface {
		Settings(context.Context, json.RawMessage) error
	}); ok {
		return i.Settings(ctx, settings)
	}
	return nil
}

// sharing are the containers that share the agent's network namespace, its own first.
func (a *seat) sharing() []*container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*container{a.c}, a.members...)
}

// asking are those of which one has asked, by the agent's word, which counts within the pod: the one that it names. Where it names none that is
// there they are all, but for the sandbox while it is not alone.
func (a *seat) asking(id string) []*container {
	all := a.sharing()
	if !a.pod {
		return all
	}
	if i := slices.IndexFunc(all, func(c *container) bool { return c.id.Container == id }); i >= 0 {
		return all[i : i+1]
	}
	if len(all) > 1 {
		all = all[1:]
	}
	return all
}

// described is what the interceptor knows of a container, if it is held to rules.
func described(c *container, rules GateRules) EgressContainer {
	e := EgressContainer{Base: c.base(), Rules: rules}
	e.Cgroup, _ = c.group().ID() // without one nothing can be attributed to it
	return e
}

// rulesFor are the rules of one of the containers, as its network was moved to last.
func (a *seat) rulesFor(c *container) GateRules {
	a.mu.Lock()
	rules, moved := a.rules[c]
	a.mu.Unlock()
	if !moved {
		return rulesOf(c.current().Effective)
	}
	return rules
}

// settings are the interceptor's, by the rules in force.
func (a *seat) settings() json.RawMessage {
	var all []EgressContainer
	for _, c := range a.sharing() {
		all = append(all, described(c, a.rulesFor(c)))
	}
	if a.pod {
		return a.s.cfg.Egress.Settings(all[0], all)
	}
	return a.s.cfg.Egress.Settings(all[0], nil)
}

// begins are the settings of an agent that starts.
func (a *seat) begins() json.RawMessage {
	settings := a.settings()
	a.mu.Lock()
	a.given = settings
	a.mu.Unlock()
	return settings
}

// catchUp tells an agent that was just injected what has changed since it was given its first settings: until it is known here, nobody tells it.
func (a *seat) catchUp(ctx context.Context) {
	a.telling.Lock()
	defer a.telling.Unlock()
	settings := a.settings()
	a.mu.Lock()
	given := a.given
	a.mu.Unlock()
	if bytes.Equal(settings, given) {
		return
	}
	if err := a.tell(ctx, settings); err != nil && a.ctx.Err() == nil {
		a.report(api.EventDegraded, fmt.Sprintf("its agent does not know of rules that changed while it started, until it is told of others: %v", err), nil)
	}
}

// hold has the agent that takes a container's connections hold it to rules from the next request on. Where none runs, the one to come
// knows them from its beginning.
func (c *container) hold(ctx context.Context, rules GateRules) error {
	a := c.agent.leading()
	if a == nil {
		return nil
	}
	a.telling.Lock()
	defer a.telling.Unlock()
	a.mu.Lock()
	if a.rules == nil {
		a.rules = make(map[*container]GateRules)
	}
	a.rules[c] = rules
	gate := a.gate
	a.mu.Unlock()
	if gate != nil {
		if err := gate.Set(a.agentRules()); err != nil {
			return err
		}
	}
	return a.tell(ctx, a.settings())
}

// agentRules are those of the agent's own gate: of threat feeds what the strictest of the containers wants. The agent
// knows of all other rules before it sends, and only the kernel has threat feeds.
func (a *seat) agentRules() GateRules {
	var out GateRules
	for i, c := range a.sharing() {
		r := a.rulesFor(c)
		if i == 0 {
			out.Allow = r.Allow
		}
		out.WatchListed = out.WatchListed || r.WatchListed
		out.BlockListed = out.BlockListed || r.BlockListed
	}
	return out
}

// group is where the container's processes are.
func (c *container) group() cgroup.Group { return cgroup.FromMap(c.cgroup) }

// base is what is known of every request of the container.
func (c *container) base() flow.Context {
	d := c.current()
	b := flow.Context{
		Version: flow.Version, Container: c.id.Container, Namespace: c.id.Namespace, Workload: d.Facts.Name(), Image: d.Facts.Image.Name,
		Data: d.Data,
	}
	if d.Risk != nil {
		b.Risk = int(d.Risk.Score)
	}
	return b
}

// decide asks the daemon about a request.
func (a *seat) decide(ctx context.Context, c flow.Context) (d flow.Decision, err error) {
	q := a.question(c)
	err = a.s.link.call(ctx, a.s.cfg.DecideWithin, func(ctx context.Context, client *api.Client) (err error) {
		d, err = client.Decide(ctx, q.DecideRequest)
		return err
	})
	if err == nil {
		a.answered(&q, &d)
	}
	return d, err
}

// decideMany asks the daemon about requests of one container with one message. What is known here of who asks counts for all of them.
func (a *seat) decideMany(ctx context.Context, many flow.Many) (flow.Answers, error) {
	all, err := many.Contexts(api.MaxDecisions)
	if err != nil {
		return flow.Answers{}, fmt.Errorf("contexts of requests: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	q := a.question(all[0])
	r := api.DecideManyRequest{Version: flow.Version, Many: many, Proves: q.Proves, Among: q.Among, Told: q.Told}
	r.Many.Base = q.Context
	for _, own := range []string{"container", "namespace", "workload", "image", "risk"} {
		delete(r.Many.Differ, own)
	}
	var got api.DecideManyResponse
	err = a.s.link.call(ctx, a.s.cfg.DecideWithin, func(ctx context.Context, client *api.Client) (err error) {
		got, err = client.DecideMany(ctx, r)
		return err
	})
	if err == nil && len(got.Answers.Which) != len(all) {
		err = fmt.Errorf("the daemon answered %d of %d requests: %w", len(got.Answers.Which), len(all), errdefs.ErrInternal)
	}
	if err != nil {
		return flow.Answers{}, err
	}
	for i := range all {
		if d := got.Answers.Of(i); d != nil {
			q.asked = all[i].User
			a.answered(&q, d)
		}
	}
	return got.Answers, nil
}

// question is what the daemon is asked about a request.
type question struct {
	api.DecideRequest
	asked string // the user, by the agent's word
}

// question says whose a request is, which is known here; what the agent says counts among the containers of its pod.
func (a *seat) question(c flow.Context) (q question) {
	who := a.asking(c.Container)
	own := who[0].base()
	q.Version, q.Told = flow.Version, true
	if len(who) > 1 {
		own = flow.Context{Namespace: own.Namespace}
	}
	for _, w := range who {
		q.Told = q.Told && a.s.epochs.follows(w.id.String())
		if len(who) > 1 {
			q.Among = append(q.Among, w.id)
		}
	}
	q.asked = c.User
	c.Container, c.Namespace, c.Workload, c.Image, c.Risk = own.Container, own.Namespace, own.Workload, own.Image, own.Risk
	q.Context, q.Token, q.Proves = c, c.Credential, true
	return q
}

// answered takes a decision: ways out that it lets a request take may be asked for, and what was decided for several containers holds for a
// while only.
func (a *seat) answered(q *question, d *flow.Decision) {
	if !d.Profile.Deny {
		a.granted.give(grantOf(q.Context.Container, q.asked, d.Profile))
	}
	if len(q.Among) > 0 && (d.Valid == 0 || d.Valid > unattributedHolds) {
		d.Valid = unattributedHolds
	}
}

// whose is the container of a cgroup.
func (a *seat) whose(group uint64) (workload.ID, error) {
	dir, err := cgroup.ByID(group)
	if err != nil {
		return workload.ID{}, err
	}
	for _, c := range a.sharing() {
		if c.group().Holds(dir) {
			return c.id, nil
		}
	}
	return workload.ID{}, fmt.Errorf("cgroup %s is none of the pod's containers': %w", dir, errdefs.ErrNotFound)
}

// named is the container that the agent means; nil: it is not there.
func (a *seat) named(id string) *container {
	for _, c := range a.sharing() {
		if c.id.Container == id {
			return c
		}
	}
	return nil
}

// flowsOf are the connections of one container of several.
func flowsOf(all json.RawMessage, container string) (json.RawMessage, error) {
	var flows []json.RawMessage
	if err := json.Unmarshal(all, &flows); err != nil {
		return nil, errors.Join(errors.New("the agent's flows"), err)
	}
	own := []json.RawMessage{}
	for _, f := range flows {
		var is struct {
			Context struct {
				Container string `json:"container"`
			} `json:"context"`
		}
		if json.Unmarshal(f, &is) == nil && is.Context.Container == container {
			own = append(own, f)
		}
	}
	return json.Marshal(own)
}
