package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// ServiceName is the ttrpc service the daemon registers.
const ServiceName = "forefend.orchestrator.v1.Orchestrator"

// Orchestrator is the Policy Orchestration Service. Errors are errdefs kinds.
type Orchestrator interface {
	Admit(context.Context, AdmitRequest) (Decision, error)
	Await(context.Context, AwaitRequest) error
	Update(context.Context, UpdateRequest) (Decision, error)
	Adjust(context.Context, AdjustRequest) (AdjustResponse, error)
	Agent(context.Context, AgentRequest) (Agent, error)
	Observe(context.Context, ObserveRequest) error
	List(context.Context) (ListResponse, error)
	Explain(context.Context, ExplainRequest) (Decision, error)
	History(context.Context, HistoryRequest) (HistoryResponse, error)
	Events(context.Context, EventsRequest) (EventsResponse, error)
	Profile(context.Context, ProfileRequest) (ProfileResponse, error)
	Status(context.Context) (Status, error)
}

type none struct{}

// AdapterName is the ttrpc service a shim registers beside containerd's.
const AdapterName = "forefend.shim.v1.Adapter"

// Adapter changes running containers; the shim of a container is its Adapter. Errors are errdefs kinds.
type Adapter interface {
	Adapt(context.Context, AdaptRequest) (AdaptResponse, error)
	// Agent tells how it stands with the container's agent, and what that sees.
	Agent(context.Context, AgentRequest) (Agent, error)
}

// RegisterAdapter serves a on server.
func RegisterAdapter(server *ttrpc.Server, a Adapter) {
	server.RegisterService(AdapterName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Adapt": method(a.Adapt),
		"Agent": method(a.Agent),
	}})
}

// Register serves o on server.
func Register(server *ttrpc.Server, o Orchestrator) {
	server.RegisterService(ServiceName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Admit":   method(o.Admit),
		"Await":   method(func(ctx context.Context, r AwaitRequest) (none, error) { return none{}, o.Await(ctx, r) }),
		"Profile": method(o.Profile),
		"Update":  method(o.Update),
		"Adjust":  method(o.Adjust),
		"Agent":   method(o.Agent),
		"Explain": method(o.Explain),
		"History": method(o.History),
		"Events":  method(o.Events),
		"Observe": method(func(ctx context.Context, r ObserveRequest) (none, error) { return none{}, o.Observe(ctx, r) }),
		"List":    method(func(ctx context.Context, _ none) (ListResponse, error) { return o.List(ctx) }),
		"Status":  method(func(ctx context.Context, _ none) (Status, error) { return o.Status(ctx) }),
	}})
}

// maxBody is the size of the largest body that fits into a message of ttrpc,
// 4 MiB, with its envelope. An answer that does not would cost the connection.
const maxBody = 4<<20 - 4<<10

func fits(what string, body []byte) error {
	if len(body) > maxBody {
		return fmt.Errorf("%s has %d bytes, a message holds just under 4 MiB: %w", what, len(body), errdefs.ErrResourceExhausted)
	}
	return nil
}

// method adapts a typed function to ttrpc.
func method[Req, Resp any](call func(context.Context, Req) (Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		var in wrapperspb.BytesValue
		if err := unmarshal(&in); err != nil {
			return nil, err
		}
		var req Req
		if n := rawjson.Values(in.Value); n > rawjson.MaxValues {
			return nil, errgrpc.ToGRPC(fmt.Errorf("%T holds %d values, the most is %d: %w", req, n, rawjson.MaxValues, errdefs.ErrInvalidArgument))
		}
		if err := json.Unmarshal(in.Value, &req); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("decode %T: %w: %w", req, err, errdefs.ErrInvalidArgument))
		}
		resp, err := call(ctx, req)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		body, err := json.Marshal(resp)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", resp, err)
		}
		if err := fits("the answer", body); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		return wrapperspb.Bytes(body), nil
	}
}

// Client calls a daemon. It implements Orchestrator.
type Client struct {
	ttrpc *ttrpc.Client
}

var _ Orchestrator = (*Client)(nil)
var _ io.Closer = (*Client)(nil)

// NewClient speaks over conn, which it then owns.
func NewClient(conn net.Conn) *Client { return &Client{ttrpc: ttrpc.NewClient(conn)} }

// Dial connects to the daemon's unix socket.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the forefend daemon: %w", err)
	}
	return NewClient(conn), nil
}

// Close ends the connection; calls under way fail.
func (c *Client) Close() error { return c.ttrpc.Close() }

func call[Req, Resp any](ctx context.Context, c *Client, name string, req Req) (resp Resp, err error) {
	return callOf[Req, Resp](ctx, c.ttrpc, ServiceName, name, req)
}

func callOf[Req, Resp any](ctx context.Context, c *ttrpc.Client, service, name string, req Req) (resp Resp, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("encode %T: %w", req, err)
	}
	if err := fits("the request "+name, body); err != nil {
		return resp, err
	}
	var out wrapperspb.BytesValue
	if err := c.Call(ctx, service, name, wrapperspb.Bytes(body), &out); err != nil {
		if _, answered := status.FromError(err); !answered {
			return resp, fmt.Errorf("%s: %w", name, err) // the connection's error: who looks for ttrpc.ErrClosed must find it
		}
		return resp, errgrpc.ToNative(err)
	}
	if err := json.Unmarshal(out.Value, &resp); err != nil {
		return resp, fmt.Errorf("decode the answer to %s: %w", name, err)
	}
	return resp, nil
}

// AdapterClient calls a shim. It implements Adapter.
type AdapterClient struct {
	ttrpc *ttrpc.Client
}

var _ Adapter = (*AdapterClient)(nil)

// DialAdapter connects to the shim that serves on socket, a path or containerd's form "unix://PATH".
func DialAdapter(ctx context.Context, socket string) (*AdapterClient, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(socket, "unix://"))
	if err != nil {
		return nil, fmt.Errorf("connect to the container's shim: %w", err)
	}
	return &AdapterClient{ttrpc: ttrpc.NewClient(conn)}, nil
}

// Close ends the connection; calls under way fail.
func (c *AdapterClient) Close() error { return c.ttrpc.Close() }

// Adapt implements Adapter.
func (c *AdapterClient) Adapt(ctx context.Context, r AdaptRequest) (AdaptResponse, error) {
	r.Oldest = Oldest
	return callOf[AdaptRequest, AdaptResponse](ctx, c.ttrpc, AdapterName, "Adapt", r)
}

// Agent implements Adapter.
func (c *AdapterClient) Agent(ctx context.Context, r AgentRequest) (Agent, error) {
	r.Oldest = Oldest
	return callOf[AgentRequest, Agent](ctx, c.ttrpc, AdapterName, "Agent", r)
}

// Agent implements Orchestrator.
func (c *Client) Agent(ctx context.Context, r AgentRequest) (Agent, error) {
	r.Oldest = Oldest
	return call[AgentRequest, Agent](ctx, c, "Agent", r)
}

// Admit implements Orchestrator.
func (c *Client) Admit(ctx context.Context, r AdmitRequest) (Decision, error) {
	r.Oldest = Oldest
	return call[AdmitRequest, Decision](ctx, c, "Admit", r)
}

// Await implements Orchestrator.
func (c *Client) Await(ctx context.Context, r AwaitRequest) error {
	r.Oldest = Oldest
	_, err := call[AwaitRequest, none](ctx, c, "Await", r)
	return err
}

// Profile implements Orchestrator.
func (c *Client) Profile(ctx context.Context, r ProfileRequest) (ProfileResponse, error) {
	return call[ProfileRequest, ProfileResponse](ctx, c, "Profile", r)
}

// Update implements Orchestrator.
func (c *Client) Update(ctx context.Context, r UpdateRequest) (Decision, error) {
	r.Oldest = Oldest
	return call[UpdateRequest, Decision](ctx, c, "Update", r)
}

// Adjust implements Orchestrator.
func (c *Client) Adjust(ctx context.Context, r AdjustRequest) (AdjustResponse, error) {
	r.Oldest = Oldest
	return call[AdjustRequest, AdjustResponse](ctx, c, "Adjust", r)
}

// Observe implements Orchestrator.
func (c *Client) Observe(ctx context.Context, r ObserveRequest) error {
	r.Oldest = Oldest
	_, err := call[ObserveRequest, none](ctx, c, "Observe", r)
	return err
}

// List implements Orchestrator.
func (c *Client) List(ctx context.Context) (ListResponse, error) {
	return call[none, ListResponse](ctx, c, "List", none{})
}

// Explain implements Orchestrator.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Decision, error) {
	return call[ExplainRequest, Decision](ctx, c, "Explain", r)
}

// History implements Orchestrator.
func (c *Client) History(ctx context.Context, r HistoryRequest) (HistoryResponse, error) {
	return call[HistoryRequest, HistoryResponse](ctx, c, "History", r)
}

// Events implements Orchestrator.
func (c *Client) Events(ctx context.Context, r EventsRequest) (EventsResponse, error) {
	return call[EventsRequest, EventsResponse](ctx, c, "Events", r)
}

// Status implements Orchestrator.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[none, Status](ctx, c, "Status", none{})
}
