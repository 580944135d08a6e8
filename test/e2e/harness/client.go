package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
)

// Client is a connection to this environment's containerd; Close closes it.
func (e *Env) Client() *client.Client { return e.client }

// Context adds the environment's containerd namespace to ctx, as Client's methods want it.
func (e *Env) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.Namespace)
}

// watchIDs notes the id of every container that is created from now on: cgroups and sockets of a container bear its
// id, and so its leftovers are found after containerd has forgotten it.
func (e *Env) watchIDs() error {
	ctx, stop := context.WithCancel(context.Background())
	messages, errs := e.client.Subscribe(ctx, `topic=="/containers/create"`)
	e.stopIDs = stop
	e.watcher.Go(func() {
		for {
			select {
			case m := <-messages:
				var created apievents.ContainerCreate
				if m != nil && typeurl.UnmarshalTo(m.Event, &created) == nil {
					e.ids.add(created.ID)
				}
			case <-errs:
				return
			}
		}
	})
	return nil
}

// removeContainers kills and deletes every container of every namespace.
func (e *Env) removeContainers(ctx context.Context) error {
	if e.client == nil {
		return nil
	}
	spaces, err := e.client.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var failed []error
	for _, space := range spaces {
		nctx := namespaces.WithNamespace(ctx, space)
		containers, err := e.client.Containers(nctx)
		failed = append(failed, err)
		for _, c := range containers {
			if err := removeContainer(nctx, c); err != nil {
				failed = append(failed, fmt.Errorf("remove container %s: %w", c.ID(), err))
			}
		}
	}
	return errors.Join(failed...)
}

func removeContainer(ctx context.Context, c client.Container) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	task, err := c.Task(ctx, nil)
	if err == nil {
		_ = task.Resume(ctx) // a frozen process cannot die on cgroup v1; on a running one this fails, which is fine
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	err = c.Delete(ctx, client.WithSnapshotCleanup)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// killAll ends processes and waits until they are gone.
func killAll(ctx context.Context, find func() ([]process, error)) error {
	for {
		found, err := find()
		if err != nil || len(found) == 0 {
			return err
		}
		for _, p := range found {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		if !pause(ctx) {
			return fmt.Errorf("processes that do not end: %v", found)
		}
	}
}

// pause waits a poll interval; it reports false when ctx has ended instead.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollInterval):
		return true
	}
}
