package api

import (
	"context"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
)

// DecisionsName is the ttrpc service of the policy decision point, which a daemon with egress rules serves beside its own.
const DecisionsName = "forefend.pdp.v1.Decisions"

// Decisions is the policy decision point. Errors are errdefs kinds; whoever gets one lets nothing pass.
type Decisions interface {
	// Decide answers for one request. Who and what asks is the shim's word, the rest a claim of the agent's.
	Decide(context.Context, DecideRequest) (flow.Decision, error)
}

// DecideRequest is a request of a container.
type DecideRequest struct {
	Version int          `json:"version"` // flow.Version
	Context flow.Context `json:"context"`
}

// Epochs is what a decision point offers that tells of other rules.
type Epochs interface {
	// Epoch is answered when the epoch is not After any more, or after Wait.
	Epoch(context.Context, EpochRequest) (EpochResponse, error)
}

// EpochRequest waits for other rules.
type EpochRequest struct {
	After uint64        `json:"after"` // 0: answer at once
	Wait  time.Duration `json:"wait,omitempty"`
}

// EpochResponse is the epoch of the rules in force. It only grows, also from one daemon to the next.
type EpochResponse struct {
	Epoch uint64        `json:"epoch"`
	Grace time.Duration `json:"grace"` // for how long known decisions hold once the daemon is away
}

// RegisterDecisions serves d on server, and its epochs if it has them.
func RegisterDecisions(server *ttrpc.Server, d Decisions) {
	methods := map[string]ttrpc.Method{"Decide": method(d.Decide)}
	if e, ok := d.(Epochs); ok {
		methods["Epoch"] = method(e.Epoch)
	}
	server.RegisterService(DecisionsName, &ttrpc.ServiceDesc{Methods: methods})
}

// Decide implements Decisions.
func (c *Client) Decide(ctx context.Context, r DecideRequest) (flow.Decision, error) {
	return callOf[DecideRequest, flow.Decision](ctx, c.ttrpc, DecisionsName, "Decide", r)
}

// Epoch implements Epochs.
func (c *Client) Epoch(ctx context.Context, r EpochRequest) (EpochResponse, error) {
	return callOf[EpochRequest, EpochResponse](ctx, c.ttrpc, DecisionsName, "Epoch", r)
}
