package orchestrator

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// agentTime is how long a shim may take to ask its agent, or to inject one.
const agentTime = 12 * time.Second

// Agent asks the shim of a running container about the container's agent.
func (s *Service) Agent(ctx context.Context, req api.AgentRequest) (api.Agent, error) {
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return api.Agent{}, err
	}
	r, err := s.cfg.Containers.Read(req.ID)
	if err != nil || !r.Alive() {
		return api.Agent{}, fmt.Errorf("container %s does not run: %w", req.ID, errdefs.ErrNotFound)
	}
	if r.ShimSocket == "" {
		return api.Agent{}, fmt.Errorf("container %s was created by a release of Forefend without agents: %w", req.ID, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	shim, err := api.DialAdapter(ctx, r.ShimSocket)
	if err != nil {
		return api.Agent{}, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	defer shim.Close()
	return shim.Agent(ctx, req)
}
