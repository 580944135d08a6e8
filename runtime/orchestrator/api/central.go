package api

import (
	"context"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
)

// CentralName is the ttrpc service of a central decision point, which a daemon with [egress.serve] offers to other nodes' daemons over
// mutual TLS.
const CentralName = "forefend.pdp.v1.Central"

// MaxQuestions is how many questions one CentralRequest may have.
const MaxQuestions = 256

// Central decides for nodes. Errors are errdefs kinds; whoever gets one lets nothing pass.
type Central interface {
	// Decide answers all questions of a message, in their order.
	Decide(context.Context, CentralRequest) (CentralResponse, error)
	// Epoch is answered when the epoch is not After any more, or after Wait. The first one of a connection agrees on a version.
	Epoch(context.Context, CentralEpochRequest) (CentralEpochResponse, error)
}

// Question is one request of a container, all of which its node says, and how busy that is.
type Question struct {
	Context flow.Context `json:"context"`
	Load    int          `json:"load,omitempty"` // of the node, percent
}

// CentralRequest is what was asked at a node about the same time.
type CentralRequest struct {
	Version   int        `json:"version"` // of flow, agreed on by Epoch
	Questions []Question `json:"questions"`
}

// CentralResponse has as many answers as there were questions.
type CentralResponse struct {
	Answers []flow.Decision `json:"answers"`
}

// CentralEpochRequest waits for other rules.
type CentralEpochRequest struct {
	Versions []int         `json:"versions"` // of flow that the node understands
	After    uint64        `json:"after"`    // 0: answer at once
	Wait     time.Duration `json:"wait,omitempty"`
}

// CentralEpochResponse is the epoch of the rules in force.
type CentralEpochResponse struct {
	Version int    `json:"version"` // the greatest that both understand
	Epoch   uint64 `json:"epoch"`
	Risk    bool   `json:"risk,omitempty"` // they ask for the risk of containers, whose change then matters
}

// RegisterCentral serves c on server.
func RegisterCentral(server *ttrpc.Server, c Central) {
	server.RegisterService(CentralName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Decide": method(c.Decide), "Epoch": method(c.Epoch)}})
}

// CentralClient calls a central decision point. It implements Central.
type CentralClient struct{ ttrpc *ttrpc.Client }

// NewCentralClient speaks over conn, which it then owns.
func NewCentralClient(conn net.Conn) *CentralClient {
	return &CentralClient{ttrpc: ttrpc.NewClient(conn)}
}

// Close ends the connection; calls under way fail.
func (c *CentralClient) Close() error { return c.ttrpc.Close() }

// Decide implements Central.
func (c *CentralClient) Decide(ctx context.Context, r CentralRequest) (CentralResponse, error) {
	return callOf[CentralRequest, CentralResponse](ctx, c.ttrpc, CentralName, "Decide", r)
}

// Epoch implements Central.
func (c *CentralClient) Epoch(ctx context.Context, r CentralEpochRequest) (CentralEpochResponse, error) {
	return callOf[CentralEpochRequest, CentralEpochResponse](ctx, c.ttrpc, CentralName, "Epoch", r)
}
