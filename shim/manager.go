package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/shim/internal/bootstrap"
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

// Start starts the shim where package early did not.
func (m manager) Start(ctx context.Context, p *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	skipGarbage()
	m.shareOptions(p)
	return m.Shim.Start(ctx, p)
}

// shareOptions adds runc's options to the parameters where they came in another
// form, for what upstream does before there is a task: the shim's cgroup. Those that
// cannot be read are Create's to refuse.
func (m manager) shareOptions(p *bootapi.BootstrapParams) {
	for _, e := range p.GetExtensions() {
		if converted, err := runcOptions(e.GetValue(), m.cfg.RuncOptions); err == nil && converted != nil && converted != e.GetValue() {
			_ = p.AddExtension(converted) // of an Any it has no error
			return
		}
	}
}

// Info tells what this runtime can do, given the options in in any form that
// Create takes: containerd's CRI plugin asks it to know what to offer.
func (m manager) Info(ctx context.Context, in io.Reader) (*types.RuntimeInfo, error) {
	body, err := io.ReadAll(io.LimitReader(in, maxOptions))
	if err != nil {
		return nil, fmt.Errorf("read runtime options: %w", err)
	}
	var asked anypb.Any
	if err := proto.Unmarshal(body, &asked); err != nil {
		return nil, fmt.Errorf("runtime options: %w", err)
	}
	converted, err := runcOptions(&asked, m.cfg.RuncOptions)
	if err != nil {
		return nil, err
	}
	if converted == nil {
		return m.Shim.Info(ctx, bytes.NewReader(nil))
	}
	if body, err = proto.Marshal(converted); err != nil {
		return nil, fmt.Errorf("runtime options: %w", err)
	}
	return m.Shim.Info(ctx, bytes.NewReader(body))
}

// Stop is what the separate delete process runs after a shim has died, and package early found something left: upstream
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
	lost, _ := m.cfg.Containers.Read(wid) // without a record there is no run to speak of
	if rmerr := os.Remove(filepath.Join(m.cfg.NotifyDir, socketName(wid))); rmerr != nil && !errors.Is(rmerr, os.ErrNotExist) {
		log.G(ctx).WithError(rmerr).Warn("forefend: listener socket not removed")
	}
	if rmerr := errors.Join(lost.EndAgent(), removeCgroup(lost.Cgroup)); rmerr != nil { // its record stays: by it the daemon will do it
		log.G(ctx).WithError(rmerr).Warn("forefend: agent or cgroup of the dead container not removed")
	} else if rmerr := m.cfg.Containers.Remove(wid); rmerr != nil {
		log.G(ctx).WithError(rmerr).Warn("forefend: record not removed")
	}
	if rmerr := removeDeadSocket(ctx, id); rmerr != nil {
		log.G(ctx).WithError(rmerr).Warn("forefend: socket of the dead shim not removed")
	}
	m.report(ctx, lost)
	if err != nil {
		return status, fmt.Errorf("delete after a crash: %w", err)
	}
	return status, nil
}

// removeDeadSocket removes the socket on which a killed shim listened. Its address
// is in the bundle, which is the delete process's directory. One
// that still answers belongs to a pod's shim that lives on.
func removeDeadSocket(ctx context.Context, id string) error {
	address, err := deadAddress(ctx, id)
	if err != nil || !strings.HasPrefix(address, "unix://") || shim.CanConnect(address) {
		return err
	}
	if err := shim.RemoveSocket(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// deadAddress is the address that containerd wrote into the bundle or, for one
// before 2.0, this shim; and when neither came to it, where a shim of this
// container alone listens by default.
func deadAddress(ctx context.Context, id string) (string, error) {
	body, err := os.ReadFile("bootstrap.json")
	if err == nil {
		var params struct {
			Address string `json:"address"`
		}
		if err := json.Unmarshal(body, &params); err != nil {
			return "", fmt.Errorf("bootstrap.json: %w", err)
		}
		return params.Address, nil
	}
	if errors.Is(err, os.ErrNotExist) {
		body, err = os.ReadFile(bootstrap.AddressFile)
	}
	if containerd := flag.Lookup("address"); errors.Is(err, os.ErrNotExist) && containerd != nil {
		return shim.SocketAddress(ctx, containerd.Value.String(), id, false)
	}
	return string(body), err
}
