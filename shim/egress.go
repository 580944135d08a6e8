package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Egress leads a node's outbound connections. cmd gives the shim tunneld as one; without tunnels there is none.
type Egress interface {
	// Settings are those of a container's interceptor; base is what is known of all its requests, Data of those that say nothing of it.
	Settings(base flow.Context) json.RawMessage
	// Guard closes a container's network namespace, but for what its interceptor lets out. It may be repeated, and should be when the
	// namespace has other devices or addresses than before.
	Guard(context.Context, EgressTarget) (namespace uint64, err error)
	// Way answers an interceptor's question for a tunnel, which is there when it returns.
	Way(ctx context.Context, namespace uint64, workload string, question []byte) ([]byte, error)
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
	askDecide = "decide"
	askWay    = "way"
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
		Settings: func() json.RawMessage { return a.s.cfg.Egress.Settings(a.base()) },
		Ready: func(ctx context.Context, port uint16) error {
			a.mu.Lock()
			a.port = port
			a.mu.Unlock()
			return a.guard(ctx)
		},
		Ask: a.answer,
	}
}

// base is what is known of every request of the container.
func (a *seat) base() flow.Context {
	d := a.c.current()
	c := flow.Context{
		Version: flow.Version, Container: a.c.id.Container, Namespace: a.c.id.Namespace, Workload: d.Facts.Name(), Image: d.Facts.Image.Name,
		Data: d.Data,
	}
	if d.Risk != nil {
		c.Risk = int(d.Risk.Score)
	}
	return c
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

// answer answers the agent. What it says of who asks is not believed: that is known here.
func (a *seat) answer(ctx context.Context, method string, body []byte) ([]byte, error) {
	switch method {
	case askDecide:
		var c flow.Context
		if err := json.Unmarshal(body, &c); err != nil {
			return nil, fmt.Errorf("context of a request: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		own := a.base()
		c.Container, c.Namespace, c.Workload, c.Image, c.Risk = own.Container, own.Namespace, own.Workload, own.Image, own.Risk
		var d flow.Decision
		err := a.s.link.call(ctx, a.s.cfg.DecideWithin, func(ctx context.Context, client *api.Client) (err error) {
			d, err = client.Decide(ctx, api.DecideRequest{Version: flow.Version, Context: c})
			return err
		})
		if err != nil {
			return nil, err
		}
		return json.Marshal(d)
	case askWay:
		a.mu.Lock()
		namespace := a.guarded
		a.mu.Unlock()
		return a.s.cfg.Egress.Way(ctx, namespace, a.base().Workload, body)
	}
	return nil, fmt.Errorf("agents do not ask for %.30q: %w", method, errdefs.ErrNotImplemented)
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
