package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/root"
)

var clock = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

var id = workload.ID{Namespace: "default", Container: "web-1"}

// mirror answers with what it was asked, in every field that has room for it.
type mirror struct {
	fail error
	wait chan struct{} // nil: nobody waits

	mu  sync.Mutex
	got []any // guarded by mu
}

func (m *mirror) saw(v any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, v)
	return m.fail
}

func (m *mirror) Admit(ctx context.Context, r AdmitRequest) (Decision, error) {
	if m.wait != nil {
		select {
		case <-m.wait:
		case <-ctx.Done():
			return Decision{}, ctx.Err()
		}
	}
	return Decision{
		Version: Version, Time: clock, Facts: r.Facts, Availability: ByDaemon, Profile: "default", Seccomp: r.Spec.Linux.Seccomp,
		Table: []byte{0, 1, 2, 255}, Revision: 1, Notes: []string{r.ListenerPath}, Sources: []Source{{Name: "history", Status: SourceOK, Took: time.Millisecond}},
		Effective: policy.Effective{Version: policy.EffectiveVersion, Fields: []policy.Field{{
			Key: policy.KeyMemory, Value: policy.Unlimited, Origin: policy.Origin{Author: policy.Request, Source: "spec"},
			Lost: []policy.Lost{{Origin: policy.Origin{Author: policy.Prediction, Source: "history"}, Value: 1, Why: "resources prefers the request"}},
		}}},
	}, m.saw(r)
}

func (m *mirror) Agent(_ context.Context, r AgentRequest) (Agent, error) {
	return Agent{Reason: r.ID.String()}, m.saw(r)
}

func (m *mirror) Adjust(_ context.Context, r AdjustRequest) (AdjustResponse, error) {
	return AdjustResponse{Decision: Decision{Facts: workload.Facts{ID: r.ID}}}, m.saw(r)
}

func (m *mirror) Update(_ context.Context, r UpdateRequest) (Decision, error) {
	return r.Before, m.saw(r)
}
func (m *mirror) Await(_ context.Context, r AwaitRequest) error { return m.saw(r) }
func (m *mirror) Profile(_ context.Context, r ProfileRequest) (ProfileResponse, error) {
	return ProfileResponse{Standings: []evidence.Standing{{User: r.Name, Trust: 0.5}}}, m.saw(r)
}
func (m *mirror) Observe(_ context.Context, r ObserveRequest) error { return m.saw(r) }
func (m *mirror) List(context.Context) (ListResponse, error) {
	return ListResponse{Containers: []Container{{ID: id, Started: clock, Limits: Limits{CPUs: 1.5}}}}, m.saw(nil)
}
func (m *mirror) Explain(_ context.Context, r ExplainRequest) (Decision, error) {
	return Decision{Facts: workload.Facts{ID: r.ID}}, m.saw(r)
}
func (m *mirror) History(_ context.Context, r HistoryRequest) (HistoryResponse, error) {
	return HistoryResponse{SetAside: []string{r.Workload}}, m.saw(r)
}
func (m *mirror) Events(_ context.Context, r EventsRequest) (EventsResponse, error) {
	return EventsResponse{Next: r.After + 1, Events: []Event{{Seq: r.After + 1, Time: clock, ID: r.ID, Fields: map[string]string{"syscall": "bpf"}}}}, m.saw(r)
}
func (m *mirror) Status(context.Context) (Status, error) {
	return Status{RSS: 1 << 40, Started: clock}, m.saw(nil)
}

// serve puts o behind a unix socket the way the daemon does.
func serve(t *testing.T, o Orchestrator) (socket string) {
	t.Helper()
	return serveBy(t, func(s *ttrpc.Server) { Register(s, o) })
}

func serveBy(t *testing.T, register func(*ttrpc.Server)) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffapi") // short: a socket's path has to fit
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return socket
}

func dial(t *testing.T, socket string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func admitRequest() AdmitRequest {
	errno := uint(38)
	return AdmitRequest{
		Version: Version, Oldest: Oldest, ListenerPath: "/run/forefend/n/x", DryRun: true,
		Facts: workload.Facts{ID: id, Run: "r", Args: []string{"a\x00b", "\u2028<&>"}, Annotations: map[string]string{"forefend.dev/pids": "1"}},
		Spec: specs.Spec{Version: "1.3.0", Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: 1<<64 - 1, Op: specs.OpMaskedEqual}}}},
		}}},
	}
}

// Every method brings its request there and its answer back, to the last bit.
func TestRoundTrip(t *testing.T) {
	m, reference := &mirror{}, &mirror{}
	c := dial(t, serve(t, m))
	decision, err := reference.Admit(t.Context(), admitRequest())
	if err != nil {
		t.Fatal(err)
	}
	update := UpdateRequest{Version: Version, Oldest: Oldest, ID: id, Before: decision, Refused: true}
	observe := ObserveRequest{Version: Version, Oldest: Oldest, Lost: 1<<64 - 1, Observations: []workload.Observation{{ID: id, Started: clock, Usage: workload.Usage{CPUPeak: 0.1}}}}
	events := EventsRequest{After: 1<<53 + 1, Wait: time.Minute, Tail: true, ID: id}
	for name, call := range map[string]func(Orchestrator) (any, error){
		"Admit":   func(o Orchestrator) (any, error) { return o.Admit(t.Context(), admitRequest()) },
		"Update":  func(o Orchestrator) (any, error) { return o.Update(t.Context(), update) },
		"Observe": func(o Orchestrator) (any, error) { return nil, o.Observe(t.Context(), observe) },
		"List":    func(o Orchestrator) (any, error) { return o.List(t.Context()) },
		"Explain": func(o Orchestrator) (any, error) { return o.Explain(t.Context(), ExplainRequest{ID: id}) },
		"History": func(o Orchestrator) (any, error) {
			return o.History(t.Context(), HistoryRequest{Workload: "redis", Limit: 3})
		},
		"Await": func(o Orchestrator) (any, error) {
			return nil, o.Await(t.Context(), AwaitRequest{Version: Version, Oldest: Oldest, Facts: admitRequest().Facts})
		},
		"Profile": func(o Orchestrator) (any, error) {
			return o.Profile(t.Context(), ProfileRequest{Name: "alice", Limit: 3})
		},
		"Events": func(o Orchestrator) (any, error) { return o.Events(t.Context(), events) },
		"Status": func(o Orchestrator) (any, error) { return o.Status(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			m.got, reference.got = nil, nil
			got, err := call(c)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := call(reference)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("answer\n%+v, not\n%+v", got, want)
			}
			if !reflect.DeepEqual(m.got, reference.got) {
				t.Errorf("request\n%+v, not\n%+v", m.got, reference.got)
			}
		})
	}
}

// Callers act on the kind of an error: it must survive the socket, and so must its words.
func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []error{errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrFailedPrecondition, errdefs.ErrPermissionDenied,
		errdefs.ErrUnavailable, errdefs.ErrAlreadyExists, errdefs.ErrNotImplemented, errdefs.ErrOutOfRange} {
		m := &mirror{fail: fmt.Errorf("annotation forefend.dev/pids: %w", kind)}
		_, err := dial(t, serve(t, m)).Explain(t.Context(), ExplainRequest{})
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), "annotation forefend.dev/pids") {
			t.Errorf("%v came as %v", kind, err)
		}
	}
	joined := &mirror{fail: errors.Join(fmt.Errorf("one: %w", errdefs.ErrInvalidArgument), errors.New("two"))}
	if err := dial(t, serve(t, joined)).Observe(t.Context(), ObserveRequest{}); err == nil || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") {
		t.Errorf("joined errors came as %v", err)
	}
}

func TestMalformedBodyIsTheCallersFault(t *testing.T) {
	m := &mirror{}
	conn, err := net.Dial("unix", serve(t, m))
	if err != nil {
		t.Fatal(err)
	}
	raw := ttrpc.NewClient(conn)
	defer raw.Close()
	for _, body := range []string{"", "{", `{"version":"one"}`, `[]`, "\xff"} {
		err := errgrpc.ToNative(raw.Call(t.Context(), ServiceName, "Admit", wrapperspb.Bytes([]byte(body)), &wrapperspb.BytesValue{}))
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if len(m.got) != 0 {
		t.Errorf("decided about %+v", m.got)
	}
	if err := raw.Call(t.Context(), ServiceName, "Nothing", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err == nil {
		t.Error("an unknown method")
	}
	var out wrapperspb.BytesValue
	if err := raw.Call(t.Context(), ServiceName, "Status", wrapperspb.Bytes([]byte(`{"unknown":1}`)), &out); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

// A message that ttrpc cannot carry is refused by name, and the connection lives on.
func TestOversizedMessages(t *testing.T) {
	c := dial(t, serve(t, &mirror{}))
	req := admitRequest()
	req.Facts.Args = []string{strings.Repeat("x", 5<<20)}
	if _, err := c.Admit(t.Context(), req); err == nil || !strings.Contains(err.Error(), "Admit") || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("%v", err)
	}
	req.Facts.Args = []string{strings.Repeat("x", 3<<20)}
	if d, err := c.Admit(t.Context(), req); err != nil || len(d.Facts.Args[0]) != 3<<20 {
		t.Errorf("3 MiB: %v", err)
	}
	// The answer repeats Before: it does not fit although the request did.
	big := &mirror{fail: nil}
	c = dial(t, serve(t, answering{big, strings.Repeat("x", 5<<20)}))
	if _, err := c.History(t.Context(), HistoryRequest{}); err == nil || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("%.200v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
}

// answering is a mirror with too long a history.
type answering struct {
	*mirror
	text string
}

func (a answering) History(context.Context, HistoryRequest) (HistoryResponse, error) {
	return HistoryResponse{SetAside: []string{a.text}}, nil
}

func TestDeadlinesAndBrokenConnections(t *testing.T) {
	m := &mirror{wait: make(chan struct{})}
	socket := serve(t, m)
	c := dial(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Admit(ctx, admitRequest()); !errors.Is(err, context.DeadlineExceeded) && !errdefs.IsDeadlineExceeded(err) {
		t.Errorf("late: %v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after a late answer: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := Dial(t.Context(), socket+"-nobody"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
}

func TestManyCallsOverOneConnection(t *testing.T) {
	c := dial(t, serve(t, &mirror{}))
	var wait sync.WaitGroup
	for i := range 40 {
		wait.Go(func() {
			want := workload.ID{Namespace: "default", Container: fmt.Sprint(i)}
			if d, err := c.Explain(t.Context(), ExplainRequest{ID: want}); err != nil || d.Facts.ID != want {
				t.Errorf("%v: %v", d.Facts.ID, err)
			}
		})
	}
	wait.Wait()
}

// other is the argument with which this test binary calls the socket named after it.
const other = "forefend-call-as-another-user"

func TestMain(m *testing.M) {
	if i := slices.Index(os.Args, other); i >= 0 {
		callAsAnother(os.Args[i+1])
	}
	os.Exit(m.Run())
}

func callAsAnother(socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, socket)
	if err == nil {
		_, err = c.Status(ctx)
	}
	fmt.Println("status:", err)
	os.Exit(0)
}

// Even where the socket's mode is wrong, another user is refused.
func TestAnotherUserIsRefused(t *testing.T) {
	root.Test(t)
	m := &mirror{}
	socket := serve(t, m)
	dir := filepath.Dir(socket)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "call")
	if err := errors.Join(os.WriteFile(program, body, 0o755), os.Chmod(dir, 0o755), os.Chmod(socket, 0o777)); err != nil {
		t.Fatal(err)
	}
	for uid, allowed := range map[uint32]bool{0: true, 65534: false} {
		cmd := exec.CommandContext(t.Context(), program, other, socket)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := strings.Contains(string(out), "status: <nil>"); got != allowed {
			t.Errorf("uid %d: %s", uid, out)
		}
	}
	if len(m.got) != 1 {
		t.Errorf("%d calls arrived", len(m.got))
	}
}

// A reader of this version takes what a later one adds, and one of the future takes what this one leaves out.
func TestBodiesAreAdditive(t *testing.T) {
	var d Decision
	if err := json.Unmarshal([]byte(`{"version":1,"later":{"a":[1]},"facts":{"id":{"namespace":"n","container":"c"},"later":1},"revision":4}`), &d); err != nil || d.Revision != 4 || d.Facts.ID.Container != "c" {
		t.Errorf("%+v: %v", d, err)
	}
	body, err := json.Marshal(Event{Seq: 1, Kind: EventExited})
	if err != nil || strings.Contains(string(body), `"id"`) || strings.Contains(string(body), `"fields"`) {
		t.Errorf("%s: %v", body, err)
	}
}
