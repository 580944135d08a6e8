// Package upstream is the only door to containerd's runc shim: it builds the
// task service and the shim manager that package shim decorates. Nothing of
// containerd/cmd/containerd-shim-runc-v2 is imported anywhere else, so that a
// change over there is felt in one file.
package upstream

import (
	"context"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
)

// NewTask builds the runc task service. It must be called once per process:
// it subscribes to the process-wide reaper.
func NewTask(ctx context.Context, publisher shim.Publisher, sd shutdown.Service) (taskv3.TTRPCTaskService, error) {
	return task.NewTaskService(ctx, publisher, sd)
}

// NewManager builds the runc shim manager, which starts and deletes shims.
func NewManager(name string) shim.Shim { return manager.NewShimManager(name) }
