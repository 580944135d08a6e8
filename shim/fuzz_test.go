package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	containerdtypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/record"
)

// moody stands in for upstream in FuzzTask: it keeps the states that upstream keeps, fails when it is told to, and
// complains about what would make upstream panic.
type moody struct {
	taskv3.TTRPCTaskService
	t    testing.TB
	fail bool // the next call
	pid  uint32
	exit func(id string) // publishes

	mu    sync.Mutex
	alive map[string]chan struct{} // closed when it has exited; guarded by mu
}

var errMoody = errgrpc.ToGRPC(fmt.Errorf("runc does not want to: %w", errdefs.ErrUnknown))

// mood returns the error of a call about a container that must exist.
func (m *moody) mood(id string) (chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.alive[id]; c != nil && !m.fail {
		return c, nil
	} else if c != nil {
		return nil, errMoody
	}
	return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
}

func (m *moody) Create(_ context.Context, r *taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
	if r.Options.GetValue() != nil {
		if v, err := typeurl.UnmarshalAny(r.Options); err == nil {
			if _, ok := v.(*options.Options); !ok {
				m.t.Errorf("upstream would panic over options of type %T", v)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fail:
		return nil, errMoody
	case m.alive[r.ID] != nil:
		m.t.Errorf("%q is created twice", r.ID)
	}
	m.alive[r.ID] = make(chan struct{})
	return &taskv3.CreateTaskResponse{Pid: m.pid}, nil
}

func (m *moody) Start(_ context.Context, r *taskv3.StartRequest) (*taskv3.StartResponse, error) {
	if _, err := m.mood(r.ID); err != nil {
		return nil, err
	}
	return &taskv3.StartResponse{Pid: m.pid}, nil
}

func (m *moody) Wait(ctx context.Context, r *taskv3.WaitRequest) (*taskv3.WaitResponse, error) {
	m.mu.Lock()
	exited := m.alive[r.ID]
	m.mu.Unlock()
	if exited == nil {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	select {
	case <-exited:
		return &taskv3.WaitResponse{ExitStatus: 137}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *moody) Kill(_ context.Context, r *taskv3.KillRequest) (*types.Empty, error) {
	exited, err := m.mood(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		select {
		case <-exited:
		default:
			close(exited)
			m.exit(r.ID)
		}
	}
	return &types.Empty{}, nil
}

func (m *moody) Delete(_ context.Context, r *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	exited, err := m.mood(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		m.mu.Lock()
		defer m.mu.Unlock()
		select {
		case <-exited:
		default:
			close(exited)
		}
		delete(m.alive, r.ID)
	}
	return &taskv3.DeleteResponse{}, nil
}

func (m *moody) Exec(_ context.Context, r *taskv3.ExecProcessRequest) (*types.Empty, error) {
	if r.Spec == nil {
		m.t.Error("upstream would panic over an exec without a process")
	}
	_, err := m.mood(r.ID)
	return &types.Empty{}, err
}

func (m *moody) Update(_ context.Context, r *taskv3.UpdateTaskRequest) (*types.Empty, error) {
	if r.Resources == nil {
		m.t.Error("upstream would panic over an update without resources")
	}
	_, err := m.mood(r.ID)
	return &types.Empty{}, err
}

func (m *moody) State(_ context.Context, r *taskv3.StateRequest) (*taskv3.StateResponse, error) {
	_, err := m.mood(r.ID)
	return &taskv3.StateResponse{}, err
}

func (m *moody) Checkpoint(_ context.Context, r *taskv3.CheckpointTaskRequest) (*types.Empty, error) {
	_, err := m.mood(r.ID)
	return &types.Empty{}, err
}

func (m *moody) CloseIO(_ context.Context, r *taskv3.CloseIORequest) (*types.Empty, error) {
	_, err := m.mood(r.ID)
	return &types.Empty{}, err
}

// quietPublisher publishes nowhere.
type quietPublisher struct{}

func (*quietPublisher) Publish(context.Context, string, events.Event) error { return nil }

func (*quietPublisher) Close() error { return nil }

// shelf is a decorated service over moody, for one sequence of calls.
type shelf struct {
	*Service
	inner  *moody
	dir    string
	bundle string
	end    func()
}

// onShelf builds one whose daemon cannot be started. It makes no use of t.TempDir and t.Context: a fuzz target's are slow.
func onShelf(t testing.TB, dir string) *shelf {
	t.Helper()
	s := &shelf{dir: dir, bundle: filepath.Join(dir, "bundle"), inner: &moody{t: t, alive: make(map[string]chan struct{})}}
	if err := errors.Join(os.MkdirAll(filepath.Join(s.bundle, "rootfs"), 0o755), unix.Mkfifo(filepath.Join(dir, "stdin"), 0o600)); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "s")
	cfg := Config{
		State: state, Socket: state + "/no.sock", Containers: record.Dir(state + "/c"), Sealed: record.SealedDir(dir + "/sealed"),
		NotifyDir: state + "/n", SpoolDir: dir + "/spool", StartLock: state + "/lock", DaemonLog: "/dev/null",
		Daemon: "/nonexistent/forefend", OnUnavailable: "last-known",
		AdmitDeadline: time.Second, ColdStart: time.Second, Sample: time.Hour, Checkpoint: time.Hour,
		RuncOptions: func([]byte) (*options.Options, error) { return &options.Options{SystemdCgroup: true}, nil },
	}
	ctx, sd := shutdown.WithShutdown(context.Background())
	exits := newExits(&quietPublisher{})
	s.inner.exit = func(id string) {
		_ = exits.Publish(ctx, "/tasks/exit", &eventsapi.TaskExit{ContainerID: id, ID: id}) // the outbox takes nothing
	}
	s.Service = decorate(cfg, s.inner, exits, sd)
	s.end = func() {
		sd.Shutdown()
		<-sd.Done()
		if err := sd.Err(); err != nil && !errors.Is(err, shutdown.ErrShutdown) {
			t.Error(err)
		}
	}
	return s
}

// script takes a sequence of calls from bytes; at their end everything is zero.
type script []byte

func (s *script) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

func (s *script) text() []byte {
	n := min(int(s.byte())|int(s.byte())<<8, len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return b
}

func (s *script) of(words ...string) string {
	if i := int(s.byte()); i < len(words) {
		return words[i]
	}
	return string(s.text())
}

// any is a message of some type, or what claims to be one.
func (s *script) any() *anypb.Any {
	var m proto.Message
	switch kind := s.byte(); kind {
	case 0:
		return nil
	case 1:
		m = &options.Options{SystemdCgroup: true, BinaryName: "runc"}
	case 2:
		m = &runtimeoptions.Options{ConfigBody: s.text()}
	case 3:
		m = &runtimeoptions.Options{ConfigPath: s.of("/dev/zero", "/nonexistent", "/proc/self/mem")}
	case 4:
		m = &options.CheckpointOptions{Exit: true}
	case 5:
		m = &taskv3.CreateTaskRequest{ID: "x"}
	default:
		return &anypb.Any{TypeUrl: s.of(resourcesType, "types.containerd.io/opencontainers/runtime-spec/1/Process", "runc.v1.Options",
			"runtimeoptions.v1.Options", "containerd.runc.v1.Options", "containerd.runc.v1.CheckpointOptions"), Value: s.text()}
	}
	a, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		return nil // words that are no UTF-8 do not travel
	}
	return a
}

var ids = []string{"one", "two", "three", "", "../..", "a/b"}

// step makes one call. The answer is an error with a status of gRPC, or none: containerd can act on nothing else.
func (s *shelf) step(t testing.TB, in *script) {
	op, id := in.byte(), in.of(ids...)
	s.inner.fail = in.byte() == 1
	s.inner.pid = uint32([]int{os.Getpid(), 0, 1 << 31, 4_000_000}[in.byte()%4])
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "test"), 30*time.Millisecond)
	defer cancel()
	var err error
	switch op % 13 {
	case 0:
		_, err = s.Create(ctx, s.createRequest(t, id, in))
	case 1:
		_, err = s.Start(ctx, &taskv3.StartRequest{ID: id, ExecID: in.of("", "exec")})
	case 2:
		_, err = s.Exec(ctx, &taskv3.ExecProcessRequest{ID: id, ExecID: in.of("exec", ""), Spec: in.any(), Stdin: in.of("")})
	case 3:
		_, err = s.Update(ctx, &taskv3.UpdateTaskRequest{ID: id, Resources: in.any()})
	case 4:
		_, err = s.Kill(ctx, &taskv3.KillRequest{ID: id, ExecID: in.of("", "exec"), Signal: uint32(in.byte())})
	case 5:
		_, err = s.Delete(ctx, &taskv3.DeleteRequest{ID: id, ExecID: in.of("", "exec")})
	case 6:
		_, err = s.State(ctx, &taskv3.StateRequest{ID: id})
	case 7:
		_, err = s.Checkpoint(ctx, &taskv3.CheckpointTaskRequest{ID: id, Options: in.any()})
	case 8:
		_, err = s.CloseIO(ctx, &taskv3.CloseIORequest{ID: id, Stdin: true})
	case 9: // a message as it comes from the wire
		var r taskv3.CreateTaskRequest
		if proto.Unmarshal(in.text(), &r) == nil {
			_, err = s.Create(ctx, &r)
		}
	case 10:
		var r taskv3.ExecProcessRequest
		if proto.Unmarshal(in.text(), &r) == nil {
			_, err = s.Exec(ctx, &r)
		}
	case 11:
		var r taskv3.UpdateTaskRequest
		if proto.Unmarshal(in.text(), &r) == nil {
			_, err = s.Update(ctx, &r)
		}
	case 12: // outside of any namespace
		_, err = s.Create(context.Background(), s.createRequest(t, id, in))
	}
	if _, ok := status.FromError(err); err != nil && !ok && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("call %d fails without a status: %v", op%13, err)
	}
}

func (s *shelf) createRequest(t testing.TB, id string, in *script) *taskv3.CreateTaskRequest {
	t.Helper()
	config := filepath.Join(s.bundle, "config.json")
	if s.container(id) == nil {
		text := in.of(testSpec, "", `{"process":{},"root":{}}`)
		if err := errors.Join(os.RemoveAll(config), os.WriteFile(config, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r := &taskv3.CreateTaskRequest{
		ID: id, Bundle: in.of(s.bundle, "", "/nonexistent", "/dev"), Stdin: in.of("", s.dir+"/stdin", "/dev/null", "/nonexistent"), Options: in.any(),
	}
	switch in.byte() {
	case 1:
		r.Rootfs = []*containerdtypes.Mount{{Type: "overlay", Options: []string{"lowerdir=/nonexistent:" + s.dir, "upperdir=" + s.bundle}}}
	case 2:
		r.Rootfs = []*containerdtypes.Mount{{Type: in.of("overlay", "bind"), Source: in.of("/"), Options: []string{in.of("upperdir=/dev"), in.of("lowerdir=::")}}}
	case 3:
		r.Rootfs = make([]*containerdtypes.Mount, 3)
		for i := range r.Rootfs {
			r.Rootfs[i] = &containerdtypes.Mount{}
		}
	}
	return r
}

// clear deletes what the script has left, and fails the test when anything of any container is still there.
func (s *shelf) clear(t testing.TB) {
	t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), "test")
	s.inner.fail = false
	s.mu.Lock()
	var left []string
	for id := range s.containers {
		left = append(left, id)
	}
	s.mu.Unlock()
	for _, id := range left {
		if _, err := s.Kill(ctx, &taskv3.KillRequest{ID: id, Signal: 9}); err != nil {
			t.Errorf("the service knows %q, upstream does not: %v", id, err)
		}
		if _, err := s.Delete(ctx, &taskv3.DeleteRequest{ID: id}); err != nil {
			t.Error(err)
		}
	}
	s.end()
	if len(s.inner.alive) > 0 || len(s.containers) > 0 || len(s.exits.published) > 0 {
		t.Errorf("left: %v with upstream, %v in the service, %v awaited exits", s.inner.alive, s.containers, s.exits.published)
	}
	for _, pattern := range []string{string(s.cfg.Containers) + "/*/*", s.cfg.NotifyDir + "/*", s.bundle + "/.*"} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			t.Errorf("left behind: %v", files)
		}
	}
}

// held is what a process holds that a leak would raise.
type held struct{ routines, descriptors int }

func holding(t testing.TB) held {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return held{runtime.NumGoroutine(), len(entries)}
}

// released waits until no more is held than before.
func released(t testing.TB, before held) {
	t.Helper()
	deadline, tick := time.Now().Add(time.Minute), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		now := holding(t)
		if now.routines <= before.routines && now.descriptors <= before.descriptors {
			return
		}
		if time.Now().After(deadline) {
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			t.Fatalf("held before %+v, now %+v", before, now)
		}
	}
}

// hush silences the log: every decision without a daemon is a warning.
func hush(t testing.TB) {
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(io.Discard)
	t.Cleanup(func() { log.L.Logger.SetOutput(out) })
}

// scratch is a directory whose paths are short enough for a socket.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// FuzzTask makes any calls of the task API in any order over an upstream that fails at any of them. None may panic, make
// upstream panic or answer what containerd cannot read, and after the last deletion nothing is left of any container: no record,
// socket, goroutine or descriptor.
func FuzzTask(f *testing.F) {
	const create, start, exec, update, kill, remove = 0, 1, 2, 3, 4, 5
	call := func(op byte, rest ...byte) []byte { return append([]byte{op, 0, 0, 0}, rest...) }
	join := func(calls ...[]byte) (all []byte) {
		for _, c := range calls {
			all = append(all, c...)
		}
		return all
	}
	fresh := call(create, 0, 0, 0, 0, 0) // spec, bundle, stdin, options, mounts
	text := func(s string) []byte { return append([]byte{255, byte(len(s)), byte(len(s) >> 8)}, s...) }
	f.Add(join(fresh, call(start, 0), call(exec, 0, 0, 0), call(kill, 0, 9), call(remove, 0)))
	f.Add(join(fresh, fresh, call(start, 0), call(start, 0), call(remove, 0), call(remove, 0)))
	f.Add(join(call(create, 0, 0, 1, 1, 1), call(start, 0), call(kill, 0, 9), call(remove, 0))) // FIFO, runc's options, overlay
	f.Add(join(call(create, 0, 0, 0, 2, 5, 0, 'x', '=', '1', '\n', ' ', 0), call(start, 0)))    // CRI's options
	for kind := range byte(6) {
		f.Add(join(call(create, 0, 0, 0, kind, 0, 0, 0, 0), call(7, kind)))
	}
	f.Add(join([]byte{create, 0, 1, 0, 0, 0, 1, 0, 0}, fresh, []byte{start, 0, 1, 0, 0}, []byte{remove, 0, 1, 0, 0}))                                  // upstream fails
	f.Add(join(fresh, call(update, append([]byte{6, 0}, text(`{"memory":{"limit":33554432},"pids":{"limit":9}}`)[1:]...)...)))                         // resources
	f.Add(join(fresh, []byte{update, 0, 1, 0, 6, 0, 2, 0, '{', '}'}))                                                                                  // refused: reverted
	f.Add(join(fresh, call(exec, append([]byte{0, 6, 1}, text(`{"args":["id"],"cwd":"/","capabilities":{"bounding":["CAP_SYS_ADMIN"]}}`)[1:]...)...))) // clipped
	f.Add(append([]byte{create, 0, 0, 1}, append(text(`{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`), 0, 0, 0, 0)...))
	f.Add(join(call(create, 0, 0, 0, 0, 2, 0, 0, 0, 0), call(12, 0, 0, 0, 0, 0)))
	hush(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		before := holding(t)
		s := onShelf(t, scratch(t))
		rest := script(in)
		for calls := 0; len(rest) > 0 && calls < 40; calls++ {
			s.step(t, &rest)
		}
		s.clear(t)
		released(t, before)
	})
}

// TestCallsAtOnce makes the calls of FuzzTask from many clients: containerd serves more than one.
func TestCallsAtOnce(t *testing.T) {
	hush(t)
	// The cgroups library keeps one descriptor once it has written anything.
	none := cgroup.Group{Paths: map[string]string{"memory": "/sys/fs/cgroup/none", "pids": "/sys/fs/cgroup/none"}}
	if none.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64)}}) == nil {
		t.Fatal("limits of no cgroup can be set")
	}
	before := holding(t)
	s := onShelf(t, scratch(t))
	s.inner.pid = uint32(os.Getpid())
	ctx := namespaces.WithNamespace(t.Context(), "test")
	for round := range 20 {
		in := script([]byte{0, 0, 1, 0, 0})
		if _, err := s.Create(ctx, s.createRequest(t, "one", &in)); err != nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		for n := range 8 {
			clients.Go(func() {
				for i := range 6 {
					switch (n + i) % 6 {
					case 0, 1:
						_, _ = s.Start(ctx, &taskv3.StartRequest{ID: "one"})
					case 2:
						_, _ = s.Exec(ctx, &taskv3.ExecProcessRequest{ID: "one", ExecID: "x", Spec: &anypb.Any{Value: []byte(`{"args":["id"],"cwd":"/"}`)}})
					case 3:
						_, _ = s.Update(ctx, &taskv3.UpdateTaskRequest{ID: "one", Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":5}}`)}})
					case 4:
						_, _ = s.State(ctx, &taskv3.StateRequest{ID: "one"})
					case 5:
						_, _ = s.Kill(ctx, &taskv3.KillRequest{ID: "one", ExecID: "x"})
					}
				}
			})
		}
		clients.Wait()
		_, _ = s.Kill(ctx, &taskv3.KillRequest{ID: "one", Signal: 9})
		var gone sync.WaitGroup
		for range 2 {
			gone.Go(func() { _, _ = s.Delete(ctx, &taskv3.DeleteRequest{ID: "one"}) })
		}
		gone.Wait()
		if s.container("one") != nil {
			t.Fatalf("round %d: still there", round)
		}
	}
	s.clear(t)
	released(t, before)
}
