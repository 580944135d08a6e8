package shim

import (
	"context"
	"fmt"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/rewrite"
)

// Start starts the container or an exec; a container is sampled from then on.
func (s *Service) Start(ctx context.Context, r *taskv3.StartRequest) (*taskv3.StartResponse, error) {
	c := s.container(r.ID)
	if c != nil && r.ExecID == "" {
		if err := c.agent.ready(ctx); err != nil {
			return nil, grpcError(fmt.Errorf("forefend: start %s: %w: %w", r.ID, err, errdefs.ErrFailedPrecondition))
		}
	}
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	if err != nil || c == nil {
		return resp, err
	}
	switch {
	case r.ExecID != "":
		if err := scoreExecuted(c); err != nil {
			log.G(ctx).WithError(err).WithField("id", r.ID).Warn("forefend: an executed process keeps the OOM score of the container's creation")
		}
	case c.watch != nil:
		c.watch.begin()
		c.agent.started()
	}
	// What the client could not say.
	later := context.WithoutCancel(ctx)
	c.stdinOf(r.ExecID).settle(func() {
		_, err := s.TTRPCTaskService.CloseIO(later, &taskv3.CloseIORequest{ID: r.ID, ExecID: r.ExecID, Stdin: true})
		if err != nil {
			log.G(later).WithError(err).WithField("id", r.ID).Debug("forefend: standard input that ended early not closed")
		}
	})
	return resp, nil
}

// CloseIO passes on that a client's input has ended, as soon as upstream can make use of it.
func (s *Service) CloseIO(ctx context.Context, r *taskv3.CloseIORequest) (*types.Empty, error) {
	if c := s.container(r.ID); r.Stdin && c != nil && c.stdinOf(r.ExecID).tell() {
		return &types.Empty{}, nil
	}
	return s.TTRPCTaskService.CloseIO(ctx, r)
}

// Exec watches the process's standard input and clips the process to the container's policy
// before upstream adds it.
func (s *Service) Exec(ctx context.Context, r *taskv3.ExecProcessRequest) (_ *types.Empty, err error) {
	if r.Spec == nil { // upstream would panic, and the pod with it
		return nil, grpcError(fmt.Errorf("forefend: exec %s in %s: no process: %w", r.ExecID, r.ID, errdefs.ErrInvalidArgument))
	}
	c := s.container(r.ID)
	if c == nil {
		return s.TTRPCTaskService.Exec(ctx, r)
	}
	stdin, werr := watchStdin(r.Stdin, r.Terminal)
	if werr != nil {
		log.G(ctx).WithError(werr).WithField("id", r.ID).Debug("forefend: an early end of standard input will not be noticed")
	}
	defer func() {
		if err != nil {
			stdin.close()
			return
		}
		c.addExecStdin(r.ExecID, stdin)
	}()
	d := c.current()
	if d.Availability == api.ByNobody {
		return s.TTRPCTaskService.Exec(ctx, r)
	}
	if err := rewrite.Permitted(r.Spec.Value, d.Effective); err != nil {
		s.reporter.event(api.Event{
			Time: time.Now(), ID: c.id, Run: d.Facts.Run, Kind: api.EventDenied,
			Message: fmt.Sprintf("exec %s: %v", r.ExecID, err), Fields: map[string]string{"exec": r.ExecID},
		})
		return nil, grpcError(fmt.Errorf("forefend: exec %s in %s: %w", r.ExecID, r.ID, err))
	}
	if d.AsAsked {
		return s.TTRPCTaskService.Exec(ctx, r)
	}
	clipped, notes, err := rewrite.ProcessJSON(r.Spec.Value, &c.spec, d.Effective)
	if err != nil {
		return nil, grpcError(fmt.Errorf("forefend: exec %s in %s: %w: %w", r.ExecID, r.ID, err, errdefs.ErrInvalidArgument))
	}
	for _, note := range notes {
		s.reporter.event(api.Event{
			Time: time.Now(), ID: c.id, Run: d.Facts.Run, Kind: api.EventDenied,
			Message: fmt.Sprintf("exec %s: %s", r.ExecID, note), Fields: map[string]string{"exec": r.ExecID},
		})
	}
	r.Spec = &anypb.Any{TypeUrl: r.Spec.TypeUrl, Value: clipped}
	return s.TTRPCTaskService.Exec(ctx, r)
}
