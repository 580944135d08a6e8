package host

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
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

// answers lets only answers through, as many as calls were made. The client's library writes a line to the log for each
// message that it did not expect: an agent that sends nothing else would fill the disk of the node.
type answers struct {
	conn
	owed   *atomic.Int64 // calls that have not been answered
	report func(*channel.Fault)
	header []byte // of the message that has begun
	left   uint32 // bytes of its body that are to come
}

// The header of ttrpc: length, stream, type, flags.
const (
	headerSize   = 10
	typeResponse = 2
)

// Read implements net.Conn.
func (a *answers) Read(p []byte) (int, error) {
	n, err := a.conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if a.left > 0 {
			body := min(len(rest), int(a.left))
			a.left, rest = a.left-uint32(body), rest[body:]
			continue
		}
		part := min(headerSize-len(a.header), len(rest))
		a.header, rest = append(a.header, rest[:part]...), rest[part:]
		if len(a.header) < headerSize {
			continue
		}
		a.left = binary.BigEndian.Uint32(a.header)
		if a.left > maxAnswer || a.header[8] != typeResponse || a.owed.Add(-1) < 0 {
			fault := &channel.Fault{Kind: channel.Unasked}
			a.report(fault)
			_ = a.conn.Close() // the fault says why
			return 0, fault
		}
		a.header = a.header[:0]
	}
	return n, err
}

// maxAnswer bounds one answer, in bytes.
const maxAnswer = 1 << 20

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
	owed    atomic.Int64        // calls that have not been answered
	fault   chan *channel.Fault // of the channel; what comes after the first does not matter
	shake   api.HandshakeResponse
	first   time.Duration // from the beginning of the injection to the agent's first bytes
	ready   time.Duration // to the end of the handshake
}

// greet waits for the first bytes of an agent and, once it is in its cgroup, makes the handshake.
func (h *Host) greet(ctx context.Context, p *process, t Target) (*session, error) {
	s := &session{process: p, fault: make(chan *channel.Fault, 1)}
	begun := p.begun
	report := func(f *channel.Fault) {
		select {
		case s.fault <- f:
		default:
		}
	}
	joined := make(chan error, 1)
	go func() { joined <- h.cfg.Join(t.Cgroup, p.pid) }()
	c := conn{stream: p.stream, Conn: channel.New(p.stream, channel.Config{
		Key: p.key, End: channel.Host, Rate: rate, Burst: burst, OnFault: report,
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
	s.first = time.Since(begun)
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
	s.client = ttrpc.NewClient(&answers{conn: c, owed: &s.owed, report: report})
	s.shake, err = call[api.HandshakeRequest, api.HandshakeResponse](ctx, s, "Handshake", api.HandshakeRequest{
		Version: api.Version, Oldest: api.Oldest, Name: t.Name, Notify: t.Notify,
	})
	if err != nil {
		return nil, err
	}
	s.ready = time.Since(begun)
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
	s.owed.Add(1)
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
