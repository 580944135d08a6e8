package shim

import (
	"context"
	"fmt"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// leverState is the lever's name in the result of an action.
const leverState = "state"

// act does what an AdaptRequest with an action asks for. It takes no lock of the container: a safeguard must not wait
// for a change that hangs. Upstream does it, so that containerd knows.
func (s *Service) act(ctx context.Context, c *container, req api.AdaptRequest) (api.AdaptResponse, error) {
	if _, err := api.ParseAction(string(req.Action)); err != nil {
		return api.AdaptResponse{}, err
	}
	began := time.Now()
	if s.already(ctx, c.id.Container, req.Action) {
		return api.AdaptResponse{Decision: c.current(), Results: []api.Result{{Lever: leverState, Status: api.ResultUnchanged}}}, nil
	}
	if err := s.do(ctx, c.id.Container, req.Action); err != nil {
		return api.AdaptResponse{}, fmt.Errorf("%s %s: %w", req.Action, c.id, err)
	}
	d := c.current()
	s.reporter.event(api.Event{
		Time: time.Now(), ID: c.id, Run: d.Facts.Run, Kind: req.Action.Event(), Message: actionMessage(req),
		Fields: map[string]string{"author": req.Author.String(), "source": req.Source, "reason": req.Reason},
	})
	return api.AdaptResponse{Decision: d, Results: []api.Result{{
		Lever: leverState, Status: api.ResultApplied, Changed: []string{string(req.Action)}, Took: time.Since(began),
	}}}, nil
}

// already reports whether the container is as the action would make it. runc takes that for an error.
func (s *Service) already(ctx context.Context, id string, action api.Action) bool {
	if action == api.ActionKill {
		return false
	}
	state, err := s.State(ctx, &taskv3.StateRequest{ID: id})
	if err != nil {
		return false // doing it will say why
	}
	frozen := state.Status == task.Status_PAUSED || state.Status == task.Status_PAUSING
	return frozen == (action == api.ActionFreeze) && (frozen || state.Status == task.Status_RUNNING)
}

func (s *Service) do(ctx context.Context, id string, action api.Action) (err error) {
	switch action {
	case api.ActionFreeze:
		_, err = s.TTRPCTaskService.Pause(ctx, &taskv3.PauseRequest{ID: id})
	case api.ActionThaw:
		_, err = s.TTRPCTaskService.Resume(ctx, &taskv3.ResumeRequest{ID: id})
	case api.ActionKill:
		_, err = s.TTRPCTaskService.Kill(ctx, &taskv3.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	}
	return errgrpc.ToNative(err)
}

func actionMessage(req api.AdaptRequest) string {
	m := req.Action.Event() + " by " + req.Author.String()
	if req.Source != "" {
		m += ", " + req.Source
	}
	if req.Reason != "" {
		m += ": " + req.Reason
	}
	return m
}
