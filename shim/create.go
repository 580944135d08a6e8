package shim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"

	"forefend.dev/forefend/runtime/bundle"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// Create decides, rewrites the bundle, and lets upstream create the container.
// Whatever fails, everything done before it is undone and the bundle is as
// containerd wrote it.
func (s *Service) Create(ctx context.Context, r *taskv3.CreateTaskRequest) (_ *taskv3.CreateTaskResponse, err error) {
	s.used.Store(true)
	c, err := s.prepare(ctx, r)
	if err != nil {
		return nil, grpcError(fmt.Errorf("forefend: %w", err))
	}
	if c.stdin, err = watchStdin(r.Stdin, r.Terminal); err != nil {
		log.G(ctx).WithError(err).WithField("id", r.ID).Debug("forefend: an early end of standard input will not be noticed")
	}
	s.exits.expect(r.ID)
	resp, err := s.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		if undone := s.undo(c); undone != nil {
			err = errors.Join(err, undone)
		}
		return nil, err // upstream's own, with its gRPC status, wherever possible
	}
	if err := s.created(ctx, c, resp.Pid); err != nil {
		_, derr := s.TTRPCTaskService.Delete(ctx, &taskv3.DeleteRequest{ID: r.ID})
		return nil, grpcError(errors.Join(fmt.Errorf("forefend: %w", err), derr, s.undo(c)))
	}
	return resp, nil
}

func unified() bool { return cgroup.CurrentMode() == cgroup.V2 }

// prepare does everything that comes before runc. On error nothing is left.
func (s *Service) prepare(ctx context.Context, r *taskv3.CreateTaskRequest) (_ *container, err error) {
	if s.cfg.Fault != nil {
		return nil, fmt.Errorf("%w: %w", s.cfg.Fault, errdefs.ErrFailedPrecondition)
	}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	id := workload.ID{Namespace: ns, Container: r.ID}
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if s.container(r.ID) != nil { // before the daemon takes another decision for the one that is there
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	lost := lostOptions(r.Options)
	if r.Options, err = runcOptions(r.Options, s.cfg.RuncOptions); err != nil {
		return nil, err
	}
	b, err := bundle.Load(r.Bundle)
	if err != nil {
		return nil, err
	}
	if lost {
		if r.Options, err = driverOfPath(b.Spec()); err != nil {
			return nil, err
		}
	}
	c := &container{
		id:     id,
		bundle: r.Bundle,
		notify: filepath.Join(s.cfg.NotifyDir, socketName(id)),
		socket: s.socket,
		urgent: newUrgency(),
	}
	req := api.AdmitRequest{
		Version:      api.Version,
		Facts:        factsOf(id, b.Spec(), r, s.cfg.Containerd),
		Spec:         forDecision(b.Spec()),
		Closed:       closed(b.Spec().Mounts),
		ListenerPath: c.notify,
		Airbag:       s.canRaise(),
		Kin:          true,
		Own:          true,
		Patient:      true,
	}
	if c.decision, err = s.decide(ctx, req); err != nil {
		return nil, err
	}
	if l := b.Spec().Linux; l != nil && l.Resources != nil {
		c.asked = rewrite.Overlay(l.Resources, nil)
	}
	c.upper, c.systemd = rootfs.Upper(rootfsMounts(r)), systemdCgroup(r)
	c.cgroup = expectedCgroup(b.Spec(), c.systemd)
	if err := s.add(c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo(c))
		}
	}()
	return c, s.commit(ctx, c, b)
}

// commit turns the decision into a config.json that runc will accept, with the
// record of how to clean up written first.
func (s *Service) commit(ctx context.Context, c *container, b *bundle.Bundle) error {
	if c.decision.Availability == api.ByNobody {
		return s.save(c)
	}
	requested := record.Request{Run: c.decision.Facts.Run, Spec: forDecision(b.Spec()), Kin: true, Own: true, Airbag: s.canRaise()} // as prepare asked
	profile, table := c.decision.Seccomp, c.decision.Table
	c.decision.Seccomp, c.decision.Table = nil, nil // in force from here on; neither the record nor explain needs them
	if c.decision.Facts.HostNetwork {
		c.forgoLocked("the container uses the host's network", func(k policy.Key) bool { return k == policy.KeyNetwork })
	}
	off := rulesOf(c.decision.Effective).Off
	in := rewrite.Input{Effective: c.decision.Effective, Seccomp: profile, Unified: unified(), Gated: off && s.gated() == nil}
	if err := rewrite.Apply(b.Spec(), in); err != nil {
		return err
	}
	if err := disksExist(c.decision.Effective); err != nil {
		return err
	}
	c.offline = off && !in.Gated
	c.agent = newSeat(s, c, b.Spec())
	c.agent.offer(b.Spec())
	if err := b.Check(bundle.CheckOptions{SystemdCgroup: c.systemd}); err != nil {
		return fmt.Errorf("the rewritten spec is not one runc accepts: %w", err)
	}
	beforehand := c.record()
	beforehand.Decision = nil // cleaning up does not need it, and once the container exists it is written
	if err := s.cfg.Containers.Write(beforehand); err != nil {
		return err
	}
	if err := s.cfg.Containers.WriteRequest(c.id, requested); err != nil {
		return err
	}
	if len(table) > 0 {
		if err := s.supervise(ctx, c, table); err != nil {
			return err
		}
	}
	if err := b.Commit(); err != nil {
		return err
	}
	c.spec = forDecision(b.Spec())
	return nil
}

// disksExist reports a rate of a disk that is not there, or a weight that this kernel has not, and says who decided it: runc would only
// name a file.
func disksExist(eff policy.Effective) error {
	if f, ok := eff.Lookup(policy.KeyIOWeight); ok && f.Value != policy.Unlimited {
		if err := cgroup.IOWeighable(); err != nil {
			return fmt.Errorf("%s of %s: %w", policy.KeyIOWeight, f.Source, err)
		}
	}
	for _, family := range []policy.Key{policy.KeyIORead, policy.KeyIOWrite} {
		for _, disk := range slices.Sorted(maps.Keys(eff.Members(family))) {
			f, _ := eff.Lookup(family.Member(disk))
			if f.Value == policy.Unlimited {
				continue
			}
			if err := cgroup.Disk(disk); err != nil {
				return fmt.Errorf("%s of %s: %w", family.Member(disk), f.Source, err)
			}
		}
	}
	return nil
}

// systemdCgroup reads the one runtime option the check of a spec depends on.
func systemdCgroup(r *taskv3.CreateTaskRequest) bool {
	if r.Options == nil {
		return false
	}
	v, err := typeurl.UnmarshalAny(r.Options)
	if err != nil {
		return false // upstream will say what is wrong with it
	}
	opts, ok := v.(*options.Options)
	return ok && opts.SystemdCgroup
}

func (s *Service) supervise(ctx context.Context, c *container, compiled []byte) error {
	var table seccomp.Table
	if err := table.UnmarshalBinary(compiled); err != nil {
		return fmt.Errorf("system call table of the decision: %w", err)
	}
	if err := os.MkdirAll(s.cfg.NotifyDir, 0o700); err != nil {
		return fmt.Errorf("directory of the seccomp listeners: %w", err)
	}
	watched, err := s.supervisor.Attach(context.WithoutCancel(ctx), c.id.Container, c.notify, &table)
	if err != nil {
		return fmt.Errorf("listen for watched system calls: %w", err)
	}
	c.supervised = watched
	c.life.begin(s.cfg.Quiet, watched, c.decision)
	return nil
}

// created notes what only a created container has: its init process and cgroup.
func (s *Service) created(ctx context.Context, c *container, pid uint32) error {
	c.pid, c.started = int(pid), time.Now()
	if start, err := record.Start(c.pid); err == nil {
		c.pidStart = start
	}
	if err := c.survey(); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Debug("forefend: mounts not known, its files cannot be changed later")
	}
	group, err := cgroup.Of(c.pid)
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id.Container).Warn("forefend: cgroup not found")
	}
	if err == nil { // else the one to expect stays
		s.mu.Lock() // who looks for a pod's processes reads it
		c.cgroup = group.Map()
		s.mu.Unlock()
	}
	if err := s.openGate(c, group); err != nil {
		return err
	}
	if err := c.closeDevices(ctx); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	if err := s.save(c); err != nil {
		return err
	}
	c.agent.created()
	s.follow(c, group)
	return nil
}

// follow begins to watch a container, and its predicted limit. By the watch its policy can be changed, which is to find the airbag there: a
// second one would go on raising a limit that somebody has set.
func (s *Service) follow(c *container, group cgroup.Group) {
	c.updating.Lock()
	defer c.updating.Unlock()
	c.watch = newWatch(s, c, group)
	s.fitAirbag(c)
}

// undo removes every trace of a container that did not come to be.
func (s *Service) undo(c *container) error {
	s.remove(c.id.Container)
	s.airbags.disarm(c)
	c.closeStdin("")
	c.agent.close()
	s.exits.forget(c.id.Container)
	c.end()
	errs := []error{c.closeGate()}
	if c.supervised != nil {
		errs = append(errs, c.supervised.Close())
	}
	errs = append(errs, bundle.Restore(c.bundle))
	if err := removeCgroup(c.cgroup); err != nil { // the record stays: by it the delete process or the daemon will do it
		log.L.WithError(err).WithField("id", c.id.Container).Warn("forefend: cgroup of a container that did not come to be not removed")
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, s.cfg.Containers.Remove(c.id))...)
}
