package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

const (
	readyTimeout = 20 * time.Second
	stopTimeout  = 20 * time.Second
	poll         = 50 * time.Millisecond
)

// started is a running container.
type started struct {
	id        string
	container client.Container
	task      client.Task
}

// start runs an image detached with ctr, as a person would, and brings up loopback in its network namespace.
func (d *demo) start(ctx context.Context, runtime, image, id string, flags ...string) (*started, error) {
	args := append([]string{"run", "--detach", "--runtime", runtime}, flags...)
	if _, err := d.ctr(ctx, append(args, harness.Image(image), id)...); err != nil {
		return nil, err
	}
	container, task, err := d.task(ctx, id)
	if err != nil {
		return nil, err
	}
	_, err = inNetwork(ctx, task.Pid(), "ip", "link", "set", "lo", "up")
	return &started{id: id, container: container, task: task}, err
}

// task is a container that ctr has started, as its client sees it.
func (d *demo) task(ctx context.Context, id string) (client.Container, client.Task, error) {
	nctx := d.env.Context(ctx)
	container, err := d.env.Client().LoadContainer(nctx, id)
	if err != nil {
		return nil, nil, err
	}
	task, err := container.Task(nctx, nil)
	return container, task, err
}

// stop ends the container by a signal, as a person would, and deletes it. It returns the exit status.
func (d *demo) stop(ctx context.Context, s *started, signal unix.Signal) (uint32, error) {
	ctx, cancel := context.WithTimeout(d.env.Context(ctx), stopTimeout)
	defer cancel()
	exited, err := s.task.Wait(ctx)
	if err != nil {
		return 0, err
	}
	if err := s.task.Kill(ctx, signal); err != nil {
		return 0, err
	}
	select {
	case <-exited:
	case <-ctx.Done():
		return 0, fmt.Errorf("%s did not end on %v: %w", s.id, signal, ctx.Err())
	}
	status, err := s.task.Delete(ctx)
	if err != nil {
		return 0, err
	}
	return status.ExitCode(), s.container.Delete(ctx, client.WithSnapshotCleanup)
}

// until polls until check succeeds.
func until(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(poll):
		}
	}
}
