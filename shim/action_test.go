package shim

import (
	"context"
	"errors"
	"slices"
	"testing"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// states stands in for upstream where only the state of a task changes.
type states struct {
	taskv3.TTRPCTaskService
	did    []string
	err    error
	status task.Status
}

func (u *states) State(context.Context, *taskv3.StateRequest) (*taskv3.StateResponse, error) {
	return &taskv3.StateResponse{Status: u.status}, nil
}

func (u *states) Pause(_ context.Context, r *taskv3.PauseRequest) (*types.Empty, error) {
	u.did = append(u.did, "pause "+r.ID)
	u.status = task.Status_PAUSED
	return &types.Empty{}, u.err
}

func (u *states) Resume(_ context.Context, r *taskv3.ResumeRequest) (*types.Empty, error) {
	u.did = append(u.did, "resume "+r.ID)
	u.status = task.Status_RUNNING
	return &types.Empty{}, u.err
}

func (u *states) Kill(_ context.Context, r *taskv3.KillRequest) (*types.Empty, error) {
	if r.Signal != 9 || !r.All {
		return nil, errors.New("not SIGKILL to all")
	}
	u.did = append(u.did, "kill "+r.ID)
	return &types.Empty{}, u.err
}

// TestActions: an action goes through upstream, waits for no change that is under way, and is an event with its reason.
func TestActions(t *testing.T) {
	f := newFixture(t, testSpec, "last-known")
	f.inner.create = func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		return &taskv3.CreateTaskResponse{Pid: 1 << 30}, nil
	}
	up := &states{TTRPCTaskService: f.inner, status: task.Status_RUNNING}
	f.service.TTRPCTaskService = up
	if err := f.create(); err != nil {
		t.Fatal(err)
	}
	c := f.service.container("one")
	adapter := adapter{f.service}
	req := api.AdaptRequest{Version: api.Version, Oldest: api.Oldest, ID: c.id, Author: policy.Prediction, Source: "risk", Reason: "severe"}

	c.updating.Lock() // a change that hangs
	for _, a := range api.Actions {
		req.Action = a
		resp, err := adapter.Adapt(f.ctx, req)
		if err != nil || len(resp.Results) != 1 || resp.Results[0].Status != api.ResultApplied || resp.Decision.Revision != 1 {
			t.Errorf("%s: %+v, %v", a, resp.Results, err)
		}
	}
	for _, a := range []api.Action{api.ActionThaw, api.ActionFreeze, api.ActionFreeze, api.ActionThaw} { // the first and the third find it so
		req.Action = a
		if _, err := adapter.Adapt(f.ctx, req); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	c.updating.Unlock()
	req.Action = api.ActionKill
	if want := []string{"pause one", "resume one", "kill one", "pause one", "resume one"}; !slices.Equal(up.did, want) {
		t.Errorf("upstream was asked %v, want %v", up.did, want)
	}
	if m := actionMessage(req); m != "killed by prediction, risk: severe" {
		t.Errorf("message %q", m)
	}

	req.Action = "stop"
	if _, err := adapter.Adapt(f.ctx, req); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an action nobody knows: %v", err)
	}
	req.Action = api.ActionFreeze
	up.err = errgrpc.ToGRPC(errdefs.ErrNotFound)
	if _, err := adapter.Adapt(f.ctx, req); !errdefs.IsNotFound(err) {
		t.Errorf("upstream's error is not passed on: %v", err)
	}
}
