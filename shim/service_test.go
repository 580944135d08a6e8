package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
)

// inner stands in for upstream's task service at the edge of these unit tests:
// what runc does with a bundle is the e2e tests' business.
type inner struct {
	taskv3.TTRPCTaskService
	create func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error)
	exec   *taskv3.ExecProcessRequest
	exit   chan uint32
	update func(*taskv3.UpdateTaskRequest) error // nil: it succeeds
}

func (i *inner) Update(ctx context.Context, r *taskv3.UpdateTaskRequest) (*types.Empty, error) {
	if err := ctx.Err(); err != nil { // upstream starts no runc then
		return nil, err
	}
	if i.update == nil {
		return &types.Empty{}, nil
	}
	return &types.Empty{}, i.update(r)
}

func (i *inner) Create(_ context.Context, r *taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
	return i.create(r)
}

func (i *inner) Wait(ctx context.Context, _ *taskv3.WaitRequest) (*taskv3.WaitResponse, error) {
	select {
	case status := <-i.exit:
		return &taskv3.WaitResponse{ExitStatus: status}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (i *inner) Exec(_ context.Context, r *taskv3.ExecProcessRequest) (*types.Empty, error) {
	i.exec = r
	return &types.Empty{}, nil
}

func (i *inner) Delete(context.Context, *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	return &taskv3.DeleteResponse{}, nil
}

const testSpec = `{
  "ociVersion": "1.2.0",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "env": ["SECRET=x", "PATH=/bin"],
    "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}},
  "root": {"path": "rootfs"},
  "annotations": {"forefend.dev/pids": "77"},
  "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}], "resources": {}},
  "x-unknown": {"kept": true}
}`

type fixture struct {
	service *Service
	inner   *inner
	cfg     Config
	bundle  string
	ctx     context.Context
}

// newFixture builds a Service whose daemon cannot be started, so that every
// decision is made as on_unavailable says.
func newFixture(t *testing.T, spec, onUnavailable string) *fixture {
	t.Helper()
	dir := t.TempDir()
	state := filepath.Join(dir, "s")
	f := &fixture{
		inner:  &inner{exit: make(chan uint32, 1)},
		bundle: filepath.Join(dir, "bundle"),
		ctx:    namespaces.WithNamespace(t.Context(), "test"),
		cfg: Config{
			State: state, Socket: state + "/no.sock", Containers: record.Dir(state + "/c"), Sealed: record.SealedDir(dir + "/sealed"),
			NotifyDir: state + "/n", SpoolDir: dir + "/spool", StartLock: state + "/lock", DaemonLog: "/dev/null",
			Daemon: "/nonexistent/forefend", OnUnavailable: onUnavailable,
			AdmitDeadline: time.Minute, ColdStart: time.Minute, Sample: time.Hour, Checkpoint: time.Hour,
		},
	}
	if err := os.MkdirAll(filepath.Join(f.bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.config(), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, sd := shutdown.WithShutdown(f.ctx)
	f.service = decorate(f.cfg, f.inner, newExits(&outbox{}), sd)
	t.Cleanup(func() {
		sd.Shutdown()
		<-sd.Done()
		if err := sd.Err(); err != nil && !errors.Is(err, shutdown.ErrShutdown) {
			t.Error(err)
		}
	})
	f.ctx = ctx
	return f
}

func (f *fixture) config() string { return filepath.Join(f.bundle, "config.json") }

func (f *fixture) create() error {
	_, err := f.service.Create(f.ctx, &taskv3.CreateTaskRequest{ID: "one", Bundle: f.bundle})
	return err
}

// nothingLeft fails unless the bundle is as it was and no trace is on disk.
func (f *fixture) nothingLeft(t *testing.T, spec string) {
	t.Helper()
	body, err := os.ReadFile(f.config())
	if err != nil || string(body) != spec {
		t.Errorf("config.json is not what containerd wrote: %v\n%s", err, body)
	}
	for _, pattern := range []string{string(f.cfg.Containers) + "/*/*", f.cfg.NotifyDir + "/*", f.bundle + "/*forefend*", f.bundle + "/.*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if c := f.service.container("one"); c != nil {
		t.Error("the service still knows the container")
	}
}

func TestCreateUndoesItselfWhenRuncFails(t *testing.T) {
	f := newFixture(t, testSpec, "last-known")
	f.inner.create = func(r *taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		body, _ := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
		for _, want := range []string{`"x-unknown"`, `"SCMP_ACT_NOTIFY"`, `"limit":77`} {
			if !strings.Contains(strings.ReplaceAll(string(body), " ", ""), want) {
				t.Errorf("runc is given a spec without %s:\n%.2000s", want, body)
			}
		}
		if sockets, _ := filepath.Glob(f.cfg.NotifyDir + "/*"); len(sockets) != 1 {
			t.Errorf("no listener waits for runc: %v", sockets)
		}
		return nil, errgrpc.ToGRPC(errdefs.ErrUnknown)
	}
	if err := f.create(); err == nil {
		t.Fatal("runc's failure is not reported")
	}
	f.nothingLeft(t, testSpec)
}

func TestCreateRefusesMalformedAnnotation(t *testing.T) {
	spec := strings.Replace(testSpec, `"77"`, `"many"`, 1)
	f := newFixture(t, spec, "last-known")
	f.inner.create = func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		t.Error("runc is asked to create a container with half a policy")
		return nil, errors.New("no")
	}
	err := f.create()
	if err == nil || !strings.Contains(err.Error(), "forefend.dev/pids") || !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("error %v does not name the annotation as an invalid argument", err)
	}
	f.nothingLeft(t, spec)
}

func TestCreateClosedWithoutDaemon(t *testing.T) {
	f := newFixture(t, testSpec, "closed")
	err := f.create()
	if !errdefs.IsUnavailable(errgrpc.ToNative(err)) || !strings.Contains(err.Error(), "on_unavailable") {
		t.Errorf("error %v does not say what is unavailable and which setting refused", err)
	}
	f.nothingLeft(t, testSpec)
}

func TestCreateOpenWithoutDaemonLeavesTheSpec(t *testing.T) {
	f := newFixture(t, testSpec, "open")
	f.inner.create = func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		if body, _ := os.ReadFile(f.config()); string(body) != testSpec {
			t.Error("on_unavailable is open, yet the spec was changed")
		}
		return &taskv3.CreateTaskResponse{Pid: uint32(os.Getpid())}, nil
	}
	if err := f.create(); err != nil {
		t.Fatal(err)
	}
	f.delete(t)
}

func (f *fixture) delete(t *testing.T) {
	t.Helper()
	f.inner.exit <- 0
	if _, err := f.service.Delete(f.ctx, &taskv3.DeleteRequest{ID: "one"}); err != nil {
		t.Fatal(err)
	}
}

func TestLifeWithoutDaemonSpoolsTheRun(t *testing.T) {
	f := newFixture(t, testSpec, "last-known")
	f.inner.create = func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		return &taskv3.CreateTaskResponse{Pid: uint32(os.Getpid())}, nil
	}
	if err := f.create(); err != nil {
		t.Fatal(err)
	}
	d := f.service.container("one").current()
	if d.Availability != "site-default" || len(d.Notes) == 0 {
		t.Errorf("the decision does not say how it came about: %q %q", d.Availability, d.Notes)
	}
	if field, ok := d.Effective.Lookup(policy.KeyPIDs); !ok || field.Value != 77 || field.Author != policy.Request {
		t.Errorf("annotation pids=77 gave %+v", field)
	}
	f.execClipped(t)
	_, err := f.service.Checkpoint(f.ctx, &taskv3.CheckpointTaskRequest{ID: "one"})
	if !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) || !strings.Contains(err.Error(), "forefend.dev/seccomp") {
		t.Errorf("checkpoint under supervision: %v, want a refusal that names the annotation", err)
	}
	f.delete(t)
	spooled, _ := filepath.Glob(f.cfg.SpoolDir + "/*.json")
	if len(spooled) != 1 {
		t.Fatalf("spool holds %v, want the one run", spooled)
	}
	if left, _ := filepath.Glob(string(f.cfg.Containers) + "/*/*"); len(left) > 0 {
		t.Errorf("record left after Delete: %v", left)
	}
}

// execClipped checks that an exec cannot have a capability its container lacks.
func (f *fixture) execClipped(t *testing.T) {
	t.Helper()
	process := `{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/","x":1,"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"effective":["CAP_SYS_ADMIN"]}}`
	req := &taskv3.ExecProcessRequest{ID: "one", ExecID: "e", Spec: &anypb.Any{TypeUrl: "t", Value: []byte(process)}}
	if _, err := f.service.Exec(f.ctx, req); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(f.inner.exec.Spec.Value, &got); err != nil {
		t.Fatal(err)
	}
	body := string(f.inner.exec.Spec.Value)
	if strings.Contains(body, "CAP_SYS_ADMIN") || !strings.Contains(body, "CAP_CHOWN") || got["x"] == nil {
		t.Errorf("exec was passed on as %s", body)
	}
}
