package shim

import (
	"context"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
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
	if c.watch != nil {
		waiting, cancel := context.WithTimeout(ctx, sampleDeadline)
		c.watch.sampled(waiting)
		s.exits.await(waiting, r.ID)
		cancel()
	}
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil {
		return nil, err
	}
	s.remove(r.ID)
	s.exits.forget(r.ID)
	c.closeStdin("")
	if c.watch != nil {
		waiting, cancel := context.WithTimeout(ctx, finalDeadline)
		c.watch.reported(waiting)
		cancel()
		c.watch.abandon()
	}
	if c.supervised != nil {
		if err := c.supervised.Close(); err != nil {
			log.G(ctx).WithError(err).WithField("id", r.ID).Warn("forefend: seccomp listener not closed cleanly")
		}
	}
	if err := s.cfg.Containers.Remove(c.id); err != nil {
		log.G(ctx).WithError(err).WithField("id", r.ID).Warn("forefend: record not removed")
	}
	return resp, nil
}
