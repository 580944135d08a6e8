package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/channel"
	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// conn is a channel as ttrpc's client wants it.
type conn struct {
	*channel.Conn
	stream *os.File
}

var _ net.Conn = conn{}

// address is that of a socketpair, which has none.
type address struct{}

func (address) Network() string { return "socketpair" }
func (address) String() string  { return "agent" }

func (conn) LocalAddr() net.Addr                  { return address{} }
func (conn) RemoteAddr() net.Addr                 { return address{} }
func (c conn) SetDeadline(t time.Time) error      { return c.stream.SetDeadline(t) }
func (c conn) SetReadDeadline(t time.Time) error  { return c.stream.SetReadDeadline(t) }
func (c conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// session is the conversation with one process.
type session struct {
	process *process
	client  *ttrpc.Client
	fault   chan *channel.Fault // one at most
	shake   api.HandshakeResponse
}

// greet waits for the first bytes of an agent and, once it is in its cgroup, makes the handshake.
func (h *Host) greet(ctx context.Context, p *process, t Target) (*session, error) {
	s := &session{process: p, fault: make(chan *channel.Fault, 1)}
	joined := make(chan error, 1)
	go func() { joined <- h.cfg.Join(t.Cgroup, p.pid) }()
	c := conn{stream: p.stream, Conn: channel.New(p.stream, channel.Config{
		Key: p.key, End: channel.Host, Rate: rate, Burst: burst, OnFault: func(f *channel.Fault) { s.fault <- f },
	})}
	p.key = [channel.KeySize]byte{}
	defer context.AfterFunc(ctx, func() { _ = p.stream.Close() })() // ends what waits below
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetReadDeadline(deadline); err != nil {
			<-joined
			return nil, err
		}
	}
	hello := make([]byte, api.HelloSize)
	_, err := io.ReadFull(c, hello)
	if jerr := <-joined; jerr != nil {
		return nil, jerr
	}
	if err != nil {
		return nil, fmt.Errorf("the agent's first bytes: %w", err)
	}
	if string(hello[:len(api.HelloMagic)]) != api.HelloMagic || hello[len(api.HelloMagic)] != api.Version {
		return nil, fmt.Errorf("the agent greets with %q, want version %d", hello, api.Version)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	s.client = ttrpc.NewClient(c)
	s.shake, err = call[api.HandshakeRequest, api.HandshakeResponse](ctx, s, "Handshake", api.HandshakeRequest{
		Version: api.Version, Oldest: api.Oldest, Name: t.Name, Notify: t.Notify,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// close ends the conversation; calls under way fail.
func (s *session) close() {
	if s.client != nil {
		_ = s.client.Close() // it has no error to tell
	}
}

// call asks the agent. The answer is bounded and not believed.
func call[Req, Resp any](ctx context.Context, s *session, name string, req Req) (resp Resp, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("agent: encode %T: %w", req, err)
	}
	var out wrapperspb.BytesValue
	if err := s.client.Call(ctx, api.ServiceName, name, wrapperspb.Bytes(body), &out); err != nil {
		if _, answered := status.FromError(err); answered {
			err = errgrpc.ToNative(err)
		}
		return resp, fmt.Errorf("agent: %s: %w", name, err)
	}
	if n := rawjson.Values(out.Value); n > rawjson.MaxValues {
		return resp, fmt.Errorf("agent: %s: the answer holds %d values, the most is %d", name, n, rawjson.MaxValues)
	}
	if err := json.Unmarshal(out.Value, &resp); err != nil {
		return resp, fmt.Errorf("agent: %s: %w", name, err)
	}
	return resp, nil
}
