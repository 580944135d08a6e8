package shim

import (
	"context"
	"fmt"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/policy"
)

// Checkpoint refuses a container whose system calls are watched: CRIU cannot
// restore the listener that answers them, and the restored processes would find
// every watched call missing.
func (s *Service) Checkpoint(ctx context.Context, r *taskv3.CheckpointTaskRequest) (*types.Empty, error) {
	if c := s.container(r.ID); c != nil && c.supervised != nil {
		return nil, grpcError(fmt.Errorf("forefend: container %s cannot be checkpointed while its system calls are watched; "+
			"create it with the annotation %sseccomp=unconfined (its profile must grant seccomp): %w", r.ID, policy.Prefix, errdefs.ErrFailedPrecondition))
	}
	return s.TTRPCTaskService.Checkpoint(ctx, r)
}
