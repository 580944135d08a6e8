package shim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// updating is a daemon that decides about updates, and keeps what it was told of those that failed.
type updating struct {
	olderDaemon
	mu      sync.Mutex
	refused []int // revisions that are in force; guarded by mu
}

func (u *updating) Update(_ context.Context, r api.UpdateRequest) (api.Decision, error) {
	if r.Refused {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.refused = append(u.refused, r.Before.Revision)
		return r.Before, nil
	}
	return admit.Readjust(r.Before, &r.Resources, policy.Site{}, false)
}

// TestUpdateOfAClientThatWentAway: what runc had begun for a client (a kubelet that resizes a pod, say, whose containerd is restarted) is undone
// although the client is gone, and the daemon hears that nothing came of it.
func TestUpdateOfAClientThatWentAway(t *testing.T) {
	f, c := supervised(t)
	daemon := &updating{}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, daemon)
	if err := os.MkdirAll(filepath.Dir(f.cfg.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", f.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(context.Background(), l) })
	t.Cleanup(func() { _ = server.Close(); served.Wait() })

	c.cgroup = nil
	ctx, goAway := context.WithCancel(f.ctx)
	var limits []int64
	f.inner.update = func(r *taskv3.UpdateTaskRequest) error {
		var res specs.LinuxResources
		if err := json.Unmarshal(r.Resources.Value, &res); err != nil {
			return err
		}
		limits = append(limits, *res.Memory.Limit)
		if len(limits) == 1 {
			goAway()
			return errors.New("runc: signal: killed")
		}
		return nil
	}
	memory := int64(64 << 20)
	body, err := encodeResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.service.Update(ctx, &taskv3.UpdateTaskRequest{ID: "one", Resources: &anypb.Any{TypeUrl: resourcesType, Value: body}}); err == nil {
		t.Error("no error")
	}
	if !slices.Equal(limits, []int64{memory, -1}) {
		t.Errorf("runc was asked for the limits %d", limits)
	}
	daemon.mu.Lock()
	defer daemon.mu.Unlock()
	if !slices.Equal(daemon.refused, []int{1}) || c.current().Revision != 1 {
		t.Errorf("the daemon was told of %v, in force is %d", daemon.refused, c.current().Revision)
	}
}

// TestNetworkOfAnAskerThatWentAway: rules that an agent has not taken are taken back also if nobody waits for that any more.
func TestNetworkOfAnAskerThatWentAway(t *testing.T) {
	ctx, goAway := context.WithCancel(t.Context())
	agent := &impatient{goAway: goAway}
	lever, _, web, _ := podOf(agent)
	if _, err := lever.move(ctx, web, merged(), withoutHost("w.example"), manner{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := agent.heeds(); got != `{"batch":null,"sandbox":null,"web":null}` {
		t.Errorf("the agent goes by %s", got)
	}
}

// impatient is an agent that takes its first settings, and whose answer nobody waits for.
type impatient struct {
	heeding
	goAway context.CancelFunc
}

func (l *impatient) Settings(ctx context.Context, settings json.RawMessage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.heeds() == "" {
		l.goAway()
	}
	_ = l.heeding.Settings(ctx, settings) // it has no error
	return ctx.Err()
}

// interrupting is a lever during whose move the asker goes away.
type interrupting struct {
	execsLever
	goAway func()
}

func (l interrupting) move(context.Context, *container, policy.Effective, policy.Effective, manner) (func(context.Context) error, error) {
	l.goAway()
	return nil, nil
}

// TestChangeNobodyWaitsFor: a change that was given up before it began is not made, and the daemon hears of one that was given up later: its
// answer reaches nobody.
func TestChangeNobodyWaitsFor(t *testing.T) {
	f, c := supervised(t)
	before := c.current()
	after := before
	after.Revision++
	after.Effective = before.Effective.Put(policy.Field{Key: policy.KeyExec, Value: policy.Tight, Origin: policy.Origin{Author: policy.Operator, Source: "test"}})
	req := api.AdaptRequest{Version: api.Version, Oldest: api.Oldest, ID: c.id, Run: before.Facts.Run, Before: before.Revision, After: after}

	ctx, goAway := context.WithCancel(f.ctx)
	c.updating.Lock() // a change that hangs
	answered := make(chan error, 1)
	go func() {
		_, err := adapter{f.service}.Adapt(ctx, req)
		answered <- err
	}()
	time.Sleep(20 * time.Millisecond)
	goAway()
	c.updating.Unlock()
	if err := <-answered; !errdefs.IsCanceled(err) || c.current().Revision != before.Revision {
		t.Errorf("revision %d: %v", c.current().Revision, err)
	}

	ctx, goAway = context.WithCancel(f.ctx)
	f.service.levers = []lever{interrupting{goAway: goAway}}
	if _, err := (adapter{f.service}).Adapt(ctx, req); err != nil {
		t.Fatal(err)
	}
	soon(t, "the daemon is told", func() bool { // when it is not just being tried in vain
		r := f.service.reporter
		r.mu.Lock()
		defer r.mu.Unlock()
		d, waits := r.decisions[before.Facts.Run]
		return waits && d.Revision == after.Revision
	})
}
