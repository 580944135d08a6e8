package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// Agents injects control agents into containers. cmd gives the shim agent/host as one.
type Agents interface {
	// Inject starts an agent and returns once it has answered. On an error nothing is left of it.
	Inject(context.Context, AgentTarget) (Agent, error)
}

// Agent is the agent of a container's network namespace.
type Agent interface {
	// State asks the agent how it is and what it sees.
	State(context.Context) (api.Agent, error)
	// Flows asks for the outbound connections that it takes, and for what it has counted, in the words of netns/intercept.
	Flows(context.Context) (flows, counters json.RawMessage, err error)
	// Close kills the agent, however it is, and returns once it and its cgroup are gone.
	Close()
}

// AgentTarget is a container to inject an agent into.
type AgentTarget struct {
	Name     string
	PID      int
	PIDStart uint64
	Cgroup   string // the agent's own, below the root of each hierarchy
	Notify   string // abstract socket of the application's messages; empty: none

	Changed func(AgentChange) // a process of the agent's started or ended
	Event   func(AgentEvent)  // what the agent reports: claims

	Intercept *AgentIntercept // nil: it takes no connections
}

// AgentChange is the start of an agent's process, or its end.
type AgentChange struct {
	PID    int // 0: it ended
	Start  uint64
	Reason string // why it, or the one before it, ended
	Fault  string // what it did to its channel, one word; empty: nothing
	Again  bool   // it took the place of one that had ended
	Outage time.Duration
}

// AgentEvent is what an agent reports. Everything in it is a claim of something that may have been taken over.
type AgentEvent struct {
	Kind    string // listening, closed, ready, reloading, stopping, status, asked, refused
	Time    time.Time
	PID     int // who sent an application's message, as the host counts
	UID     int
	Text    string
	Local   string // address of a socket
	Cgroup  uint64 // id of the v2 cgroup that a socket was made in
	Count   int    // of messages that were refused
	Request map[string]string
}

// agentDeadline is how long an injection may take, with all its tries.
const agentDeadline = 10 * time.Second

// agentCgroup is the cgroup of a container's agent. It is not charged to the workload. Containers of the same name are in several
// namespaces.
func agentCgroup(id workload.ID) string { return "forefend/agent/" + id.Namespace + ":" + id.Container }

// seat is the place of a container's agent, whether it is taken or not. Its methods may be called on a nil seat, which
// stays empty, and from any goroutine.
type seat struct {
	s *Service
	c *container
	// needed says that the container must not run without an agent; early that it is injected before the container
	// starts; empty says why there is none.
	needed, early bool
	egress        bool  // it leads the container's outbound connections, in a pod those of all
	refused       error // why the container must not be started whatever its agent does
	pod           bool  // the network namespace is that of a pod
	empty         string
	notify        string

	tried  chan struct{} // closed once the first injection has come to an end
	over   chan struct{} // closed once none goes on; only where one was begun
	giveUp context.CancelFunc
	ctx    context.Context // of injections; ends with close

	mu     sync.Mutex
	begun  bool          // guarded by mu
	agent  Agent         // guarded by mu
	failed error         // why there is no agent; guarded by mu
	proc   *record.Agent // for the record on disk; guarded by mu
	timer  *time.Timer   // of an injection that waits; guarded by mu
	closed bool          // guarded by mu
	status string        // of the application, by its own word; guarded by mu

	paths     paths
	audit     audit
	changes   wayChanges
	granted   grants
	searching sync.Mutex // held while the process of a connection is looked for
	telling   sync.Mutex // held while rules are put together and told, so that the last ones told are the newest; taken before mu

	port    uint16       // where the agent takes outbound connections; guarded by mu
	gate    Gate         // around the agent, nil: none; guarded by mu
	guarded uint64       // the network namespace that was closed around it; guarded by mu
	members []*container // of the pod, beside the sandbox, whose connections it takes; guarded by mu
	// rules are those that a container's network was moved to: its decision says so later, and meanwhile others of the pod are moved. Of
	// who is not here the decision counts. Guarded by mu.
	rules map[*container]GateRules
	given json.RawMessage // what the agent that was started last began with; guarded by mu
}

// newSeat decides whether a container that was created gets an agent, and when (docs/decisions/0053).
func newSeat(s *Service, c *container, spec *specs.Spec) *seat {
	a := &seat{s: s, c: c, tried: make(chan struct{}), over: make(chan struct{})}
	a.ctx, a.giveUp = context.WithCancel(context.Background())
	d := c.current()
	field, asked := d.Effective.Lookup(policy.KeyAgent)
	a.needed = asked && field.Value == policy.Tight && field.Author == policy.Guardrail
	for _, g := range s.cfg.Site.Guards { // a guardrail that nothing tried to cross leaves no mark on the decision
		a.needed = a.needed || g.Key == policy.KeyAgent && g.Ceiling != nil && *g.Ceiling == policy.Tight
	}
	a.egress, a.refused = a.egressNeeded(spec)
	a.needed = a.needed || a.egress
	_, a.pod = spec.Annotations[criKind]
	if a.pod && a.egress {
		s.sandbox.Store(a)
	}
	notified := spec.Annotations[policy.AnnotationNotify] == "on"
	a.early = a.needed || notified || s.cfg.AgentDelay == 0
	switch own, why := ownNetwork(spec); {
	case s.cfg.Agents == nil:
		a.empty = "this shim knows no agents"
	case d.Availability == api.ByNobody || d.AsAsked:
		a.empty = "the container is left as asked"
	case asked && field.Value != policy.Tight:
		a.empty = fmt.Sprintf("it is off (%s)", field.Source)
	case !own:
		a.empty = why
	}
	if notified && a.empty == "" {
		a.notify = notifySocket
	}
	return a
}

// notifySocket is the abstract name of the application's socket, alike in every network namespace.
const notifySocket = "forefend/notify"

// notifyVariable is how sd_notify(3) learns of the socket.
const notifyVariable = "NOTIFY_SOCKET"

// offer tells the application of its socket, unless it has been told of another.
func (a *seat) offer(spec *specs.Spec) {
	if a.notify == "" || spec.Process == nil {
		return
	}
	for _, v := range spec.Process.Env {
		if strings.HasPrefix(v, notifyVariable+"=") {
			a.notify = ""
			return
		}
	}
	spec.Process.Env = append(spec.Process.Env, notifyVariable+"=@"+notifySocket)
}

// Annotations of containerd's CRI plugin.
const (
	criKind    = "io.kubernetes.cri.container-type"
	criSandbox = "sandbox"
)

// ownNetwork tells whether the container's network namespace is its own, so that an agent in it is its own too: one
// for each network namespace, in a pod at the sandbox.
func ownNetwork(spec *specs.Spec) (own bool, why string) {
	if spec.Linux == nil {
		return false, "it has the host's network"
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			continue
		}
		kind, pod := spec.Annotations[criKind]
		switch {
		case pod && kind != criSandbox:
			return false, "the agent of its pod is the sandbox's"
		case n.Path != "" && sameFile(n.Path, "/proc/thread-self/ns/net"):
			return false, "it has the host's network"
		case n.Path != "" && !pod:
			return false, "it shares the network namespace " + n.Path + ", whose agent is that of who made it"
		}
		return true, ""
	}
	return false, "it has the host's network"
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// created begins an early injection; the container's Start waits for it.
func (a *seat) created() {
	if a == nil || a.empty != "" || !a.early {
		return
	}
	a.begin()
}

// ready waits until an early injection is done. Its error says that the container must not be started.
func (a *seat) ready(ctx context.Context) error {
	if a != nil && a.refused != nil {
		return a.refused
	}
	if lead := a.leading(); lead != nil && lead != a {
		lead.join(ctx, a.c)
	}
	if a == nil || a.empty != "" || !a.early {
		if a != nil && a.needed && a.empty != "" {
			return fmt.Errorf("%s wants an agent, and there is none: %s", a.wants(), a.empty)
		}
		return nil
	}
	select {
	case <-a.tried:
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	failed := a.failed
	a.mu.Unlock()
	if a.needed && failed != nil {
		return fmt.Errorf("%s wants an agent, and there is none: %w", a.wants(), failed)
	}
	if a.egress {
		return a.guard(ctx) // by now the namespace has the addresses that it is going to have
	}
	return nil
}

// wants is who wants that there is an agent.
func (a *seat) wants() string {
	if a.egress {
		return "the node's egress policy"
	}
	return "a guardrail"
}

// started lets an injection that was not early come when the container has lived for a while.
func (a *seat) started() {
	if a == nil || a.empty != "" || a.early {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed && a.timer == nil {
		a.timer = time.AfterFunc(a.s.cfg.AgentDelay, a.begin)
	}
}

// now injects an agent that still waits, and returns once that has come to an end.
func (a *seat) now(ctx context.Context) {
	if a == nil || a.empty != "" {
		return
	}
	a.begin()
	select {
	case <-a.tried:
	case <-a.ctx.Done():
	case <-ctx.Done():
	}
}

// begin injects, once, without waiting for it.
func (a *seat) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun || a.closed {
		return
	}
	a.begun = true
	go func() {
		defer close(a.over)
		done := a.inject()
		close(a.tried)
		for delay := firstRetry; !done; delay = min(2*delay, lastRetry) {
			select {
			case <-a.ctx.Done():
				return
			case <-time.After(delay):
				done = a.inject()
			}
		}
	}()
}

// How long after an injection that failed the next one is tried.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
)

// inject tries once, and reports whether that is all there is to do.
func (a *seat) inject() (done bool) {
	ctx, cancel := context.WithTimeout(a.ctx, agentDeadline)
	defer cancel()
	agent, err := a.s.cfg.Agents.Inject(ctx, AgentTarget{
		Name: a.c.id.String(), PID: a.c.pid, PIDStart: a.c.pidStart, Cgroup: agentCgroup(a.c.id), Notify: a.notify,
		Changed: a.changed, Event: a.event, Intercept: a.intercepting(),
	})
	if err != nil {
		a.unfence()
	}
	a.mu.Lock()
	closed, again := a.closed, a.failed != nil
	if a.failed = err; err == nil && !closed {
		a.agent = agent
	}
	a.mu.Unlock()
	switch {
	case closed && err == nil:
		agent.Close()
	case err == nil && a.egress:
		for _, c := range a.sharing() {
			a.s.epochs.join(c.id.String(), agent)
		}
		a.catchUp(ctx)
		a.changes.begin(a, agent)
	case err != nil && !closed && !again: // the next failures say nothing new
		a.report(api.EventDegraded, "no agent: "+err.Error(), nil)
	}
	return closed || err == nil
}

// describe adds what an observation says of the agent.
func (a *seat) describe(o *workload.Observation) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paths.describe(o)
}

// recorded is the agent for the record on disk. Its cgroup is there as soon as there may be one.
func (a *seat) recorded() *record.Agent {
	if a == nil || a.empty != "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc != nil {
		return a.proc
	}
	return &record.Agent{Cgroup: agentCgroup(a.c.id)}
}

// close ends the agent and waits for it. The container ends, or did not come to be.
func (a *seat) close() {
	if lead := a.leading(); lead != nil && lead != a {
		lead.part(a.c)
	}
	if a == nil || a.empty != "" {
		return
	}
	a.mu.Lock()
	a.closed = true // from here on it cannot begin
	begun := a.begun
	if a.timer != nil {
		a.timer.Stop()
	}
	a.mu.Unlock()
	if begun {
		a.audit.finish(a)
	}
	a.giveUp()
	if !begun {
		return
	}
	<-a.over
	a.changes.work.Wait()
	a.mu.Lock()
	agent := a.agent
	a.mu.Unlock()
	if agent != nil {
		for _, c := range a.sharing() {
			a.s.epochs.leave(c.id.String())
		}
		agent.Close()
	}
	a.unfence()
	a.release()
}

// state is what is known of the agent, for people.
func (a *seat) state(ctx context.Context) api.Agent {
	if a == nil {
		return api.Agent{Status: api.AgentNone, Reason: "the container was not created by this shim"}
	}
	if a.empty != "" {
		return api.Agent{Status: api.AgentNone, Reason: a.empty}
	}
	a.mu.Lock()
	agent, failed, status := a.agent, a.failed, a.status
	a.mu.Unlock()
	switch {
	case failed != nil:
		return api.Agent{Status: api.AgentFailed, Reason: failed.Error()}
	case agent == nil:
		return api.Agent{Status: api.AgentWaiting, Reason: fmt.Sprintf("it is injected once the container has run for %s, or when something needs it", a.s.cfg.AgentDelay)}
	}
	out, err := agent.State(ctx)
	out.Says = status
	a.paths.show(&out)
	if err != nil {
		out.Status, out.Reason = api.AgentFailed, err.Error()
	}
	return out
}

// flows are the outbound connections of the container that an agent takes, in a pod those of the sandbox are all, and what the agent
// has counted, for all of a pod together; nil: none does.
func (a *seat) flows(ctx context.Context) (flows, counters json.RawMessage, err error) {
	lead := a.leading()
	if lead == nil {
		return nil, nil, nil
	}
	lead.mu.Lock()
	agent := lead.agent
	lead.mu.Unlock()
	if agent == nil {
		return nil, nil, nil
	}
	flows, counters, err = agent.Flows(ctx)
	if err == nil && lead != a {
		flows, err = flowsOf(flows, a.c.id.Container)
	}
	return flows, counters, err
}
