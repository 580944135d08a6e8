package api

import (
	"context"

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

// RegisterDecisions serves d on server.
func RegisterDecisions(server *ttrpc.Server, d Decisions) {
	server.RegisterService(DecisionsName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Decide": method(d.Decide)}})
}

// Decide implements Decisions.
func (c *Client) Decide(ctx context.Context, r DecideRequest) (flow.Decision, error) {
	return callOf[DecideRequest, flow.Decision](ctx, c.ttrpc, DecisionsName, "Decide", r)
}
