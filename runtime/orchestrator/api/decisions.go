package api

import (
	"context"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/workload"
)

// DecisionsName is the ttrpc service of the policy decision point, which a daemon with egress rules serves beside its own.
const DecisionsName = "forefend.pdp.v1.Decisions"

// Decisions is the policy decision point. Errors are errdefs kinds; whoever gets one lets nothing pass.
type Decisions interface {
	// Decide answers for one request. Who and what asks is the shim's word, the rest a claim of the agent's.
	Decide(context.Context, DecideRequest) (flow.Decision, error)
}

// Batches is what a decision point offers that answers for many requests with one message.
type Batches interface {
	DecideMany(context.Context, DecideManyRequest) (DecideManyResponse, error)
}

// MaxDecisions is how many requests a message may have.
const MaxDecisions = 128

// DecideManyRequest are requests of one container, or of one of Among.
type DecideManyRequest struct {
	Version int       `json:"version"` // flow.Version
	Many    flow.Many `json:"many"`
	// As in DecideRequest, of all of them.
	Proves bool          `json:"proves,omitempty"`
	Among  []workload.ID `json:"among,omitempty"`
	Told   bool          `json:"told,omitempty"`

	Requests []DecideRequest `json:"requests,omitempty"` // of a shim of an older release, instead of Many
}

// DecideManyResponse are the answers. Where there is none, Decide says why.
type DecideManyResponse struct {
	Answers flow.Answers `json:"answers"`

	Decisions []*flow.Decision `json:"decisions"` // about Requests, in their order
}

// DecideRequest is a request of a container.
type DecideRequest struct {
	Version int          `json:"version"` // flow.Version
	Context flow.Context `json:"context"`
	// Token is what proves the user of Context, where UserProof is flow.Verified. Proves says that whoever asks passes tokens on: without one that
	// the daemon finds valid itself the user is a claim then. Shims of older releases do not, and are believed.
	Token  flow.Credential `json:"token,omitempty"`
	Proves bool            `json:"proves,omitempty"`
	// Among are the containers of a pod of which one asks, where it is not known which: the answer is the strictest of all. Context names none then.
	Among []workload.ID `json:"among,omitempty"`
	// Told says that whoever asks is told when the container's risk changes (EpochRequest.Risks): what depends on it holds until then.
	Told bool `json:"told,omitempty"`
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
	// Risks are the containers whose agents are told of another risk, by "namespace/container", and by which risk each decides; negative: it
	// is not known.
	Risks map[string]int `json:"risks,omitempty"`
}

// EpochResponse is the epoch of the rules in force. It only grows, also from one daemon to the next.
type EpochResponse struct {
	Epoch uint64        `json:"epoch"`
	Grace time.Duration `json:"grace"` // for how long known decisions hold once the daemon is away
	// Risks are those of EpochRequest.Risks that have another risk now, where rules ask for it.
	Risks map[string]int `json:"risks,omitempty"`
}

// Audits is what a decision point offers that counts what it decided.
type Audits interface {
	Audit(context.Context) (AuditResponse, error)
}

// AuditResponse is what was decided since the daemon began, by classes.
type AuditResponse struct {
	Classes []flow.Class `json:"classes"`
	Dropped uint64       `json:"dropped,omitempty"` // decisions of classes that are not kept any more
}

// RegisterDecisions serves d on server, with what it has of Batches, Epochs and Audits.
func RegisterDecisions(server *ttrpc.Server, d Decisions) {
	methods := map[string]ttrpc.Method{"Decide": method(d.Decide)}
	if b, ok := d.(Batches); ok {
		methods["DecideMany"] = method(b.DecideMany)
	}
	if e, ok := d.(Epochs); ok {
		methods["Epoch"] = method(e.Epoch)
	}
	if a, ok := d.(Audits); ok {
		methods["Audit"] = method(func(ctx context.Context, _ none) (AuditResponse, error) { return a.Audit(ctx) })
	}
	server.RegisterService(DecisionsName, &ttrpc.ServiceDesc{Methods: methods})
}

// Decide implements Decisions.
func (c *Client) Decide(ctx context.Context, r DecideRequest) (flow.Decision, error) {
	return callOf[DecideRequest, flow.Decision](ctx, c.ttrpc, DecisionsName, "Decide", r)
}

// DecideMany implements Batches.
func (c *Client) DecideMany(ctx context.Context, r DecideManyRequest) (DecideManyResponse, error) {
	return callOf[DecideManyRequest, DecideManyResponse](ctx, c.ttrpc, DecisionsName, "DecideMany", r)
}

// Audit implements Audits.
func (c *Client) Audit(ctx context.Context) (AuditResponse, error) {
	return callOf[none, AuditResponse](ctx, c.ttrpc, DecisionsName, "Audit", none{})
}

// Epoch implements Epochs.
func (c *Client) Epoch(ctx context.Context, r EpochRequest) (EpochResponse, error) {
	return callOf[EpochRequest, EpochResponse](ctx, c.ttrpc, DecisionsName, "Epoch", r)
}
