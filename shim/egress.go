package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// Egress leads a node's outbound connections. cmd gives the shim tunneld as one; without tunnels there is none.
type Egress interface {
	// Settings are those of a container's interceptor; pod are all that share its network namespace, nil where it is its own.
	Settings(own EgressContainer, pod []EgressContainer) json.RawMessage
	// Guard closes a container's network namespace, but for what its interceptor lets out. It may be repeated, and should be when the
	// namespace has other devices or addresses than before.
	Guard(context.Context, EgressTarget) (namespace uint64, err error)
	// Way answers an interceptor's question for a tunnel, which is there when it returns.
	Way(ctx context.Context, namespace uint64, workload string, question []byte) ([]byte, error)
	// Ahead has a tunnel attached that is likely to be asked for.
	Ahead(ctx context.Context, namespace uint64, name string, way workload.Way) error
	// Process answers an interceptor's question for who opened a connection of a process's network namespace: one of these processes.
	Process(ctx context.Context, pid int, among []int, question []byte) ([]byte, error)
	// Reconcile holds what the interceptor of a namespace has counted against what its tunnels' gateways have, and ends the connections with
	// which something is wrong.
	Reconcile(context.Context, api.ReconcileRequest) (api.Reconciled, error)
	// WayChanges returns the number of the last change of where Way leads the namespace (a tunnel is drained, given back or found down), once
	// that is not after any more, or after a while. Asked after the last one, it says that nothing begins in the namespace by what Way told before.
	WayChanges(ctx context.Context, namespace, after uint64) (last uint64, err error)
	// Release gives up what Guard and Way made. The namespace stays closed.
	Release(ctx context.Context, namespace uint64) error
}

// EgressTarget is a network namespace and its interceptor.
type EgressTarget struct {
	Container string
	PID       int
	PIDStart  uint64
	Cgroup    string // the interceptor's, below the root of each hierarchy
	Port      uint16 // where it takes connections, on loopback
}

// AgentIntercept has a container's agent take its outbound connections.
type AgentIntercept struct {
	Settings func() json.RawMessage
	Ready    func(ctx context.Context, port uint16) error
	Ask      func(ctx context.Context, method string, body []byte) ([]byte, error)
}

// What an agent may ask.
const (
	askDecide  = "decide"
	askMany    = "decide-many"
	askWay     = "way"
	askProcess = "process"
	// Where several containers share the network namespace.
	askContainer = "container"
	// It tells, rather than asks.
	askContacts = "contacts"
)

const releaseDeadline = 5 * time.Second

// egressNeeded tells whether the container's outbound connections are to be led, and why it cannot be created if they cannot.
func (a *seat) egressNeeded(spec *specs.Spec) (needed bool, refused error) {
	d := a.c.current()
	switch {
	case a.s.cfg.Egress == nil, d.Availability == api.ByNobody, d.AsAsked, d.Facts.HostNetwork:
		return false, nil // the node's network is not the container's to be closed
	case mayChangeNetwork(spec):
		return false, fmt.Errorf("the container has CAP_NET_ADMIN, with which it could undo the node's egress policy: "+
			"take the capability away, or run it where no [[tunnel]] is configured: %w", errdefs.ErrFailedPrecondition)
	}
	own, _ := ownNetwork(spec)
	return own, nil // else it is in the namespace of another one, whose agent does it
}

func mayChangeNetwork(spec *specs.Spec) bool {
	if spec.Process == nil || spec.Process.Capabilities == nil {
		return false
	}
	return slices.Contains(spec.Process.Capabilities.Bounding, "CAP_NET_ADMIN")
}

// intercepting is what the agent does with outbound connections; nil: nothing.
func (a *seat) intercepting() *AgentIntercept {
	if !a.egress {
		return nil
	}
	return &AgentIntercept{
		Settings: a.begins,
		Ready: func(ctx context.Context, port uint16) error {
			a.mu.Lock()
			a.port = port
			a.mu.Unlock()
			if err := a.fence(); err != nil {
				return err
			}
			if err := a.guard(ctx); err != nil {
				return err
			}
			a.mu.Lock()
			namespace := a.guarded
			a.mu.Unlock()
			a.prepare(ctx, namespace)
			return nil
		},
		Ask: a.answer,
	}
}

// fence puts a gate around the agent: what the container sends by it does not pass the container's own.
func (a *seat) fence() error {
	a.telling.Lock()
	defer a.telling.Unlock()
	rules := a.agentRules()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gate != nil || a.c.gate == nil {
		return nil // an agent that takes another's place is in the same cgroup; without gates nothing is promised
	}
	group, err := cgroup.Named(agentCgroup(a.c.id))
	if err != nil {
		return err
	}
	gate, err := a.s.cfg.Gates.Gate(group.Unified, 0, func(p Passage) {
		if !p.Accepted { // that is the container's own connections
			a.s.onPassage(a.c, p)
		}
	})
	if err != nil {
		return fmt.Errorf("threat feeds for the container's agent: %w", err)
	}
	if err := gate.Set(rules); err != nil {
		return errors.Join(err, gate.Close())
	}
	a.gate = gate
	return nil
}

// unfence forgets the gate of an agent whose cgroup is gone.
func (a *seat) unfence() {
	a.mu.Lock()
	gate := a.gate
	a.gate = nil
	a.mu.Unlock()
	if gate != nil {
		_ = gate.Close() // what it leaves is swept
	}
}

// guard closes the namespace as it is now around the agent that runs.
func (a *seat) guard(ctx context.Context) error {
	a.mu.Lock()
	port := a.port
	a.mu.Unlock()
	if port == 0 {
		return fmt.Errorf("no agent takes the container's outbound connections: %w", errdefs.ErrUnavailable)
	}
	namespace, err := a.s.cfg.Egress.Guard(ctx, EgressTarget{
		Container: a.c.id.String(), PID: a.c.pid, PIDStart: a.c.pidStart, Cgroup: agentCgroup(a.c.id), Port: port,
	})
	if err != nil {
		return fmt.Errorf("close the container's network: %w", err)
	}
	a.mu.Lock()
	a.guarded = namespace
	a.mu.Unlock()
	return nil
}

// asked is what an agent asks a decision for, and the token that proves its user.
type asked struct {
	flow.Context
	Token flow.Credential `json:"token"`
}

func (q asked) context() flow.Context {
	c := q.Context
	c.Credential = q.Token
	return c
}

// answer answers the agent. What it says of who asks is not believed: that is known here.
func (a *seat) answer(ctx context.Context, method string, body []byte) ([]byte, error) {
	switch method {
	case askDecide:
		var q asked
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("context of a request: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		d, err := a.decide(ctx, q.context())
		if err != nil {
			return nil, err
		}
		return json.Marshal(d)
	case askMany:
		var many flow.Many
		if err := json.Unmarshal(body, &many); err != nil {
			return nil, fmt.Errorf("contexts of requests: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		all, err := a.decideMany(ctx, many)
		if err != nil {
			return nil, err
		}
		return json.Marshal(all)
	case askWay:
		return a.way(ctx, body)
	case askContainer:
		var q struct {
			Cgroup uint64 `json:"cgroup"`
		}
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("question for a container: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		id, err := a.whose(q.Cgroup)
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]string{"container": id.Container})
	case askContacts:
		var told struct {
			Container string            `json:"container"`
			Names     map[string]uint64 `json:"names"`
		}
		if err := json.Unmarshal(body, &told); err != nil {
			return nil, fmt.Errorf("contacts: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if c := a.named(told.Container); c != nil {
			c.passages.name(told.Names)
		}
		return []byte("{}"), nil
	case askProcess:
		a.searching.Lock() // one at a time: what a container can have its shim do is one processor's work at most
		defer a.searching.Unlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return a.s.cfg.Egress.Process(ctx, a.c.pid, a.processes(), body)
	}
	return nil, fmt.Errorf("agents do not ask for %.30q: %w", method, errdefs.ErrNotImplemented)
}

// way answers an interceptor's question for a tunnel, which is the workload's that asks, if a decision was that something may leave so.
func (a *seat) way(ctx context.Context, question []byte) ([]byte, error) {
	var q struct {
		Profile   flow.Profile `json:"profile"`
		User      string       `json:"user"`
		Container string       `json:"container"`
	}
	if err := json.Unmarshal(question, &q); err != nil {
		return nil, fmt.Errorf("question for a tunnel: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	c, id := a.c, "" // whichever of the pod it is, the tunnel is the sandbox's
	if who := a.asking(q.Container); len(who) == 1 {
		c, id = who[0], who[0].id.Container
	}
	if !a.granted.has(grantOf(id, q.User, q.Profile)) {
		return nil, fmt.Errorf("no decision lets anything out by such a tunnel: %w", errdefs.ErrPermissionDenied)
	}
	a.mu.Lock()
	namespace := a.guarded
	a.mu.Unlock()
	got, err := a.s.cfg.Egress.Way(ctx, namespace, c.base().Workload, question)
	if err == nil {
		c.agent.paths.note(question)
		a.audit.begin(a)
	}
	return got, err
}

// processes are those of the containers in the agent's network namespace, by the host's numbers.
func (a *seat) processes() (pids []int) {
	groups := []map[string]string{a.c.cgroup}
	if a.pod {
		a.s.mu.Lock()
		for _, c := range a.s.containers {
			if c != a.c {
				groups = append(groups, c.cgroup)
			}
		}
		a.s.mu.Unlock()
	}
	for _, g := range groups {
		some, _ := cgroup.FromMap(g).PIDs() // one that has ended has none
		pids = append(pids, some...)
	}
	return pids
}

// release gives up the container's ways out.
func (a *seat) release() {
	a.mu.Lock()
	namespace := a.guarded
	a.mu.Unlock()
	if namespace == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseDeadline)
	defer cancel()
	_ = a.s.cfg.Egress.Release(ctx, namespace) // tunneld sees by itself that the container has ended
}
