package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"forefend.dev/forefend/netns/flow"
)

// The methods of the test's service: each kind of call.
const (
	unaryCall    = "/shop.Orders/GetOrder"
	writingCall  = "/shop.Orders/CreateOrder"
	upStream     = "/shop.Orders/Upload"
	downStream   = "/shop.Orders/ListOrders"
	bothStreams  = "/shop.Orders/Chat"
	forever      = "/shop.Orders/WatchOrders"
	slowlyCalled = "/shop.Orders/Slow"
)

var both = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// grpcServer serves any method of any service, as its name says.
func grpcServer(t testing.TB, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serveGRPC(t, l, name)
	return l.Addr().String()
}

func serveGRPC(t testing.TB, l net.Listener, name string) {
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		return serveCall(name, method, stream)
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
}

func serveCall(name, method string, stream grpc.ServerStream) error {
	stream.SetTrailer(metadata.Pairs("x-trailer", name))
	said := name
	for n := 0; ; n++ {
		in := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			if method == upStream {
				return stream.SendMsg(wrapperspb.String(fmt.Sprintf("%s got %d", said, n)))
			}
			return nil
		} else if err != nil {
			return err
		}
		switch method {
		case upStream:
		case downStream:
			for i := range 10 {
				if err := stream.SendMsg(wrapperspb.String(fmt.Sprintf("%s %s %d", said, in.Value, i))); err != nil {
					return err
				}
			}
		case forever:
			if err := stream.SendMsg(wrapperspb.String(said)); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		case slowlyCalled:
			<-stream.Context().Done()
			return status.FromContextError(stream.Context().Err()).Err()
		case writingCall:
			return status.Error(codes.AlreadyExists, "100% there")
		default:
			if err := stream.SendMsg(wrapperspb.String(said + " " + in.Value)); err != nil {
				return err
			}
		}
	}
}

func (r *rig) grpc() *grpc.ClientConn {
	r.t.Helper()
	return grpcTo(r.t, func(string) (net.Conn, error) { return net.Dial("tcp", r.front.Addr().String()) })
}

// grpcTo is a client whose connections dial makes.
func grpcTo(t testing.TB, dial func(string) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///shop.test:80", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(_ context.Context, to string) (net.Conn, error) { return dial(to) }))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func call(t testing.TB, conn *grpc.ClientConn, method, say string, pairs ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), patience)
	defer cancel()
	out := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, method, wrapperspb.String(say), out)
	return out.Value, err
}

// TestCalls: calls of all kinds pass, each the way that its user demands, and the denied are told so in gRPC's words.
func TestCalls(t *testing.T) {
	for _, remember := range []bool{false, true} {
		t.Run(fmt.Sprint("remember=", remember), func(t *testing.T) {
			r := newRig(t, "192.0.2.1:80", Limits{})
			r.rules.remember.Store(remember)
			r.dialer.to["a"], r.dialer.to["b"] = grpcServer(t, "a"), grpcServer(t, "b")
			r.Set(&Settings{UserHeaders: []string{"x-user"}, DataHeaders: []string{"x-data"}, Mappings: []Mapping{{Host: "shop.test", Path: "/shop.Orders/Upload", Operation: "read", Data: "public"}}})
			r.rules.set(func(c flow.Context) (flow.Decision, error) {
				switch {
				case c.User == "nobody":
					return deny("no-user", "says the test"), nil
				case c.User == "away":
					return flow.Decision{}, errors.New("the daemon is away")
				case c.User == "b":
					return endpoint("b"), nil
				}
				return endpoint("a"), nil
			})
			testCalls(t, r)
		})
	}
}

func testCalls(t *testing.T, r *rig) {
	conn := r.grpc()
	for _, way := range []string{"a", "b"} {
		if got, err := call(t, conn, unaryCall, "hello", "x-user", way); err != nil || got != way+" hello" {
			t.Errorf("unary by %s: %q, %v", way, got, err)
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-user", way), patience)
		up, err := conn.NewStream(ctx, both, upStream)
		must(t, err)
		for range 100 {
			must(t, up.SendMsg(wrapperspb.String(strings.Repeat("x", 5000))))
		}
		must(t, up.CloseSend())
		out := new(wrapperspb.StringValue)
		if must(t, up.RecvMsg(out)); out.Value != way+" got 100" {
			t.Errorf("client's stream by %s: %q", way, out.Value)
		}
		down, err := conn.NewStream(ctx, both, downStream)
		must(t, err)
		must(t, down.SendMsg(wrapperspb.String("n")))
		must(t, down.CloseSend())
		n := 0
		for ; down.RecvMsg(out) == nil; n++ {
			if out.Value != fmt.Sprintf("%s n %d", way, n) {
				t.Errorf("server's stream by %s: %q", way, out.Value)
			}
		}
		if got := down.Trailer().Get("x-trailer"); n != 10 || len(got) != 1 || got[0] != way {
			t.Errorf("server's stream by %s: %d messages, trailer %q", way, n, got)
		}
		chat, err := conn.NewStream(ctx, both, bothStreams)
		must(t, err)
		for i := range 50 {
			must(t, chat.SendMsg(wrapperspb.String(fmt.Sprint(i))))
			if must(t, chat.RecvMsg(out)); out.Value != fmt.Sprintf("%s %d", way, i) {
				t.Errorf("both streams by %s: %q", way, out.Value)
			}
		}
		must(t, chat.CloseSend())
		if err := chat.RecvMsg(out); !errors.Is(err, io.EOF) {
			t.Errorf("both streams by %s end with %v", way, err)
		}
		cancel()
	}
	_, err := call(t, conn, unaryCall, "x", "x-user", "nobody")
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "forefend: denied by rule no-user: says the test" {
		t.Errorf("denied: %v", err)
	}
	if _, err := call(t, conn, unaryCall, "x", "x-user", "away"); status.Code(err) != codes.Unavailable {
		t.Errorf("undecided: %v", err)
	}
	if _, err := call(t, conn, writingCall, "x"); status.Code(err) != codes.AlreadyExists || !strings.HasSuffix(err.Error(), "100% there") {
		t.Errorf("the server's error: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := conn.Invoke(ctx, slowlyCalled, wrapperspb.String(""), new(wrapperspb.StringValue)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a deadline: %v", err)
	}
	if n, c := r.dialer.count(), r.Counters(); n != 2 || c.Connections != 1 || len(c.Malformed) > 0 {
		t.Errorf("%d dials, %+v", n, c)
	}
	for _, c := range r.rules.contexts() {
		want := map[string]string{unaryCall: "read", downStream: "read", upStream: "read"}[c.Path]
		if want == "" {
			want = "write"
		}
		if c.Service != "shop.Orders" || c.Host != "shop.test" || c.Operation != want || (c.Data == "public") != (c.Path == upStream) {
			t.Errorf("%+v", c)
		}
	}
}

// TestThousandStreams: as many calls as may be are open at once over one connection, by two ways.
func TestThousandStreams(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["a"], r.dialer.to["b"] = grpcServer(t, "a"), grpcServer(t, "b")
	r.Set(&Settings{UserHeaders: []string{"x-user"}})
	r.rules.set(func(c flow.Context) (flow.Decision, error) { return endpoint(c.User), nil })
	conn := r.grpc()
	const n = 1000
	errs := make(chan error, n)
	var open sync.WaitGroup
	open.Add(n)
	for i := range n {
		go func() {
			way := "ab"[i%2 : i%2+1]
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-user", way), 3*patience)
			defer cancel()
			s, err := conn.NewStream(ctx, both, bothStreams)
			out := new(wrapperspb.StringValue)
			for j := range 3 {
				if err == nil {
					err = errors.Join(s.SendMsg(wrapperspb.String(fmt.Sprint(i))), s.RecvMsg(out))
				}
				if j == 0 {
					open.Done()
					open.Wait() // all are open now
				}
			}
			if err == nil && out.Value != fmt.Sprintf("%s %d", way, i) {
				err = fmt.Errorf("%d: %q", i, out.Value)
			}
			if err == nil {
				err = s.CloseSend()
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if d := r.dialer.count(); d != 2 {
		t.Errorf("%d dials", d)
	}
}

// TestRedecideStreams: calls that last are decided again when the rules change: those that may not go on end, others do not notice.
func TestRedecideStreams(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["a"], r.dialer.to["b"] = grpcServer(t, "a"), grpcServer(t, "b")
	r.Set(&Settings{UserHeaders: []string{"x-user"}})
	r.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("a"), nil })
	conn := r.grpc()
	watch := func(user string) grpc.ClientStream {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-user", user), patience)
		t.Cleanup(cancel)
		s, err := conn.NewStream(ctx, both, bothStreams)
		must(t, err)
		must(t, s.SendMsg(wrapperspb.String("x")))
		must(t, s.RecvMsg(new(wrapperspb.StringValue)))
		return s
	}
	stays, goes, moves := watch("stays"), watch("goes"), watch("moves")
	if flows := r.Flows(); len(flows) != 3 || flows[0].Stream == 0 || flows[2].Context.User != "moves" || flows[1].Sent == 0 || !flows[1].Busy {
		t.Errorf("%+v", flows)
	}
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		switch c.User {
		case "goes":
			return deny("gone", "now"), nil
		case "moves":
			return endpoint("b"), nil
		}
		return endpoint("a"), nil
	})
	r.Redecide()
	if told := r.rules.told(); len(told) != 3 || told[0].Service == "" {
		t.Errorf("told of %+v before", told)
	}
	if err := goes.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("denied now: %v", err)
	}
	if err := moves.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
		t.Errorf("of another way now: %v", err)
	}
	must(t, stays.SendMsg(wrapperspb.String("y")))
	must(t, stays.RecvMsg(new(wrapperspb.StringValue)))
	if got, err := call(t, conn, unaryCall, "x", "x-user", "moves"); err != nil || got != "b x" {
		t.Errorf("the next call: %q, %v", got, err)
	}
	if n := r.Counters().Cut; n != 2 {
		t.Errorf("%d cut", n)
	}
}

func TestOperations(t *testing.T) {
	for path, want := range map[string][2]string{
		"/shop.Orders/GetOrder": {"shop.Orders", "read"}, "/shop.Orders/Get": {"shop.Orders", "read"}, "/a/List2": {"a", "read"}, "/a/WatchAll": {"a", "read"},
		"/grpc.health.v1.Health/Check": {"grpc.health.v1.Health", "read"}, "/a/BatchGetX": {"a", "read"},
		"/a/Getaway": {"a", "write"}, "/a/GetOrCreateX": {"a", "write"}, "/a/CheckAndMutateRow": {"a", "write"}, "/a/Listen": {"a", "write"}, "/a/getX": {"a", "write"},
		"/a/Create": {"a", "write"}, "/a/GetX/b": {"", "write"}, "/a": {"", "write"}, "//GetX": {"", "write"}, "/a/": {"a", "write"},
	} {
		if service, op := ofPath(path); service != want[0] || op != want[1] {
			t.Errorf("%s: %q %q, want %q", path, service, op, want)
		}
	}
}
