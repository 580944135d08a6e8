package shim

import (
	"context"
	"strings"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"forefend.dev/forefend/shim/early"
)

// How long Delete waits for the last sample of an exited container and the event
// of its exit, and for its
// final observation to be delivered or spooled.
const (
	sampleDeadline = 500 * time.Millisecond
	finalDeadline  = 3 * time.Second
)

// Delete deletes an exec or the container, and with the container everything
// Forefend made for it.
func (s *Service) Delete(ctx context.Context, r *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	c := s.container(r.ID)
	if c == nil || r.ExecID != "" {
		resp, err := s.TTRPCTaskService.Delete(ctx, r)
		if c != nil && err == nil {
			c.closeStdin(r.ExecID)
		}
		return resp, err
	}
	// What the history needs does not end with the caller: containerd may die meanwhile.
	lasting := context.WithoutCancel(ctx)
	if c.watch != nil {
		waiting, cancel := context.WithTimeout(lasting, sampleDeadline)
		c.watch.sampled(waiting)
		s.exits.await(waiting, r.ID)
		cancel()
	}
	c.agent.close() // before the namespaces and mounts that it is in are asked for back
	over := c.deleteBegins()
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	over()
	if err != nil {
		return nil, err
	}
	s.remove(r.ID)
	s.airbags.disarm(c)
	s.exits.forget(r.ID)
	c.closeStdin("")
	if c.watch != nil {
		waiting, cancel := context.WithTimeout(lasting, finalDeadline)
		c.watch.reported(waiting)
		cancel()
		c.watch.abandon()
	}
	left := false
	failed := func(err error, what string) {
		if err != nil {
			left = true
			log.G(ctx).WithError(err).WithField("id", r.ID).Warn("forefend: " + what)
		}
	}
	if c.supervised != nil {
		failed(c.supervised.Close(), "seccomp listener not closed cleanly")
	}
	failed(c.closeGate(), "gate not closed cleanly")
	failed(s.cfg.Containers.Remove(c.id), "record not removed")
	if !left {
		s.noteRemoved(ctx, c, resp)
	}
	return resp, nil
}

// noteRemoved spares the delete command, which containerd runs once the shim is gone, a search for what is left of a container.
func (s *Service) noteRemoved(ctx context.Context, c *container, resp *taskv3.DeleteResponse) {
	response, err := proto.Marshal(resp)
	if err == nil {
		err = early.NoteRemoved(c.bundle, s.socket, response)
	}
	if err != nil { // the bundle may be gone: a containerd that was restarted removes it
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Debug("forefend: the delete command will look for what is left")
	}
}

// Pids tells containerd, which asks when it has been restarted, that a container has
// no process also where upstream has an error to tell: runc has deleted the container, and
// upstream has not, in the middle of a Delete or after one that was cut short. By that
// error containerd would keep a shim that has nothing left, for ever.
func (s *Service) Pids(ctx context.Context, r *taskv3.PidsRequest) (*taskv3.PidsResponse, error) {
	if c := s.container(r.ID); c != nil {
		c.mu.Lock()
		deleting := c.deleting
		c.mu.Unlock()
		if deleting != nil {
			select {
			case <-deleting:
			case <-ctx.Done():
			}
		}
	}
	resp, err := s.TTRPCTaskService.Pids(ctx, r)
	if err != nil && strings.Contains(err.Error(), "container does not exist") { // runc's words; there is no other sign
		return &taskv3.PidsResponse{}, nil
	}
	return resp, err
}

// deleteBegins notes that the container is being deleted until over is called.
func (c *container) deleteBegins() (over func()) {
	done := make(chan struct{})
	c.mu.Lock()
	c.deleting = done
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		if c.deleting == done {
			c.deleting = nil
		}
		c.mu.Unlock()
		close(done)
	}
}
