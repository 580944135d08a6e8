package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/netns/owner"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/shim"
)

// tunnels are tunneld and the node's configuration as the shim knows them. It implements shim.Egress.
type tunnels struct{ cfg *config.Config }

// newEgress is the node's egress; nil where neither rules nor tunnels are configured.
func newEgress(c *config.Config) shim.Egress {
	if len(c.Tunnels) == 0 && !c.Egress.Decides() {
		return nil
	}
	return tunnels{c}
}

// tunneldWait is how long a tunneld may take to serve that the daemon starts, beside its own deadline: a container is not started without.
const tunneldWait = 8 * time.Second

// dial connects to tunneld, and waits for one to come up.
func (t tunnels) dial(ctx context.Context) (*api.TunnelsClient, error) {
	if len(t.cfg.Tunnels) == 0 {
		return nil, fmt.Errorf("%s has egress rules and no way out: write a [[tunnel]], one of kind \"direct\" at least: %w", t.cfg.Path, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, tunneldWait)
	defer cancel()
	for {
		client, err := api.DialTunnels(ctx, t.cfg.TunnelsSocket())
		if err == nil || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return client, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("forefend tunneld does not serve: %w: %w", err, errdefs.ErrUnavailable)
		}
	}
}

// call calls tunneld, within tunneldWait.
func (t tunnels) call(ctx context.Context, do func(context.Context, api.Tunnels) error) error {
	ctx, cancel := context.WithTimeout(ctx, tunneldWait)
	defer cancel()
	client, err := t.dial(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, client), client.Close())
}

// Settings implements shim.Egress.
func (t tunnels) Settings(own shim.EgressContainer, pod []shim.EgressContainer) json.RawMessage {
	settings, err := newSettings(t.cfg.Egress.Interception, own.Base)
	if err != nil {
		log.L.WithError(err).WithField("id", own.Base.Container).Warn("forefend: part of how outbound requests are understood is left out")
	}
	settings.Contacts = contacts(own.Rules)
	for _, c := range pod {
		settings.Containers = append(settings.Containers, document.Container{Cgroup: c.Cgroup, Base: c.Base, Contacts: contacts(c.Rules)})
	}
	body, _ := json.Marshal(settings) // plain values
	return body
}

// Guard implements shim.Egress.
func (t tunnels) Guard(ctx context.Context, target shim.EgressTarget) (namespace uint64, err error) {
	group, err := cgroup.Named(target.Cgroup)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(group.Unified)
	if err != nil || group.Unified == "" {
		return 0, fmt.Errorf("the agent has no cgroup of the v2 hierarchy, by which its sockets are known: %w", errors.Join(err, errdefs.ErrFailedPrecondition))
	}
	request := api.GuardRequest{
		Container: target.Container, PID: target.PID, PIDStart: target.PIDStart, Port: target.Port, Web: true,
		Cgroup: info.Sys().(*syscall.Stat_t).Ino, CgroupLevel: uint32(strings.Count(target.Cgroup, "/") + 1),
	}
	err = t.call(ctx, func(ctx context.Context, c api.Tunnels) error {
		r, err := c.Guard(ctx, request)
		namespace = r.Namespace
		return err
	})
	return namespace, err
}

// Way implements shim.Egress.
func (t tunnels) Way(ctx context.Context, namespace uint64, workload string, question []byte) ([]byte, error) {
	var q egress.WayQuestion
	if err := json.Unmarshal(question, &q); err != nil {
		return nil, fmt.Errorf("question for a tunnel: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var w egress.Way
	err := t.call(ctx, func(ctx context.Context, c api.Tunnels) error {
		a, err := c.Attach(ctx, api.AttachRequest{Namespace: namespace, Profile: q.Profile, Workload: workload, User: q.User})
		w = egress.Way{Tunnel: a.Tunnel, Mark: a.Mark, Device: a.Device, Valid: a.Valid, Receipts: a.Receipts}
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(w)
}

// Ahead implements shim.Egress.
func (t tunnels) Ahead(ctx context.Context, namespace uint64, name string, way workload.Way) error {
	r := api.AttachRequest{Namespace: namespace, Workload: name, User: way.User, Ahead: true, Profile: flow.Profile{Dedicated: way.Dedicated, Endpoint: way.Endpoint}}
	if err := r.Profile.Encryption.UnmarshalText([]byte(way.Encryption)); err != nil {
		return err
	}
	return t.call(ctx, func(ctx context.Context, c api.Tunnels) error {
		_, err := c.Attach(ctx, r)
		return err
	})
}

// Reconcile implements shim.Egress.
func (t tunnels) Reconcile(ctx context.Context, r api.ReconcileRequest) (out api.Reconciled, err error) {
	err = t.call(ctx, func(ctx context.Context, c api.Tunnels) error {
		out, err = c.Reconcile(ctx, r)
		return err
	})
	return out, err
}

const (
	wayChangesWait = 30 * time.Second // how long a call for the next change of where a namespace is led is held
	wayChangesLate = 3 * time.Second  // by how much its answer may be overdue
)

// WayChanges implements shim.Egress.
func (t tunnels) WayChanges(ctx context.Context, namespace, after uint64) (uint64, error) {
	client, err := t.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, wayChangesWait+wayChangesLate)
	defer cancel()
	r, err := client.WayChanges(ctx, api.WayChangesRequest{Namespace: namespace, After: after, Wait: wayChangesWait})
	return r.Last, err
}

// Process implements shim.Egress.
func (tunnels) Process(ctx context.Context, pid int, among []int, question []byte) ([]byte, error) {
	var q egress.ProcessQuestion
	if err := json.Unmarshal(question, &q); err != nil {
		return nil, fmt.Errorf("question for a process: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	ns, err := enter.Process(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	p, err := owner.Find(ctx, ns, among, owner.Connection{Local: q.Local, Remote: q.Remote})
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// Release implements shim.Egress.
func (t tunnels) Release(ctx context.Context, namespace uint64) error {
	return t.call(ctx, func(ctx context.Context, c api.Tunnels) error {
		return c.Release(ctx, api.ReleaseRequest{Namespace: namespace})
	})
}
