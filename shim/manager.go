package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/shim/internal/upstream"
)

// manager is upstream's shim manager plus what a crashed shim leaves of ours.
type manager struct {
	shim.Shim
	cfg Config
}

// NewManager builds the manager that starts and deletes Forefend's shims.
func NewManager(cfg Config) shim.Shim {
	return manager{Shim: upstream.NewManager(Name), cfg: cfg}
}

// Start starts the shim and, beside it, the daemon if there is none: by the
// time the first Create asks, it is up or on its way. Failing that is no
// error here, Create has the fallback.
func (m manager) Start(ctx context.Context, p *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	skipGarbage()
	if c, err := api.Dial(ctx, m.cfg.Socket); err == nil {
		_ = c.Close() // it was only a knock
	} else {
		m.warmDaemon(ctx)
	}
	return m.Shim.Start(ctx, p)
}

// warmDaemon starts the daemon without waiting for it, unless another shim is
// doing that right now.
func (m manager) warmDaemon(ctx context.Context) {
	started := func(cmd *exec.Cmd) error {
		if err := cmd.Start(); err != nil {
			return err
		}
		return cmd.Process.Release() // this process ends long before the daemon does
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ColdStart)
	defer cancel()
	if err := startDaemon(ctx, m.cfg, started); err != nil {
		log.G(ctx).WithError(err).Debug("forefend: daemon not started ahead of need")
	}
}

// Stop is what the separate delete process runs after a shim has died: upstream
// removes the container, then what was made for it goes. It
// works from disk alone and may be repeated.
func (m manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	skipGarbage()
	status, err := m.Shim.Stop(ctx, id)
	ns, nserr := namespaces.NamespaceRequired(ctx)
	if nserr != nil {
		return status, err
	}
	wid := workload.ID{Namespace: ns, Container: id}
	if rmerr := os.Remove(filepath.Join(m.cfg.NotifyDir, socketName(wid))); rmerr != nil && !errors.Is(rmerr, os.ErrNotExist) {
		log.G(ctx).WithError(rmerr).Warn("forefend: listener socket not removed")
	}
	if rmerr := m.cfg.Containers.Remove(wid); rmerr != nil {
		log.G(ctx).WithError(rmerr).Warn("forefend: record not removed")
	}
	if rmerr := removeDeadSocket("bootstrap.json"); rmerr != nil {
		log.G(ctx).WithError(rmerr).Warn("forefend: socket of the dead shim not removed")
	}
	if err != nil {
		return status, fmt.Errorf("delete after a crash: %w", err)
	}
	return status, nil
}

// removeDeadSocket removes the socket on which a killed shim listened; containerd
// wrote its address into the bundle, which is the delete process's directory. One
// that still answers belongs to a pod's shim that lives on.
func removeDeadSocket(bootstrap string) error {
	body, err := os.ReadFile(bootstrap)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var params struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(body, &params); err != nil {
		return fmt.Errorf("%s: %w", bootstrap, err)
	}
	if !strings.HasPrefix(params.Address, "unix://") || shim.CanConnect(params.Address) {
		return nil
	}
	if err := shim.RemoveSocket(params.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
