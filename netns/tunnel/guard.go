package tunnel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/egress"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
)

// open guards a namespace that is none of ours yet.
func (s *Service) open(r saved) (_ *space, err error) {
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w: %w", r.PID, err, errdefs.ErrNotFound)
	}
	defer func() {
		if err != nil {
			unix.Close(pidfd)
		}
	}()
	ns, err := enter.Process(r.PID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	// By now the pidfd is that of the process meant, or of one that came after it: its start tells.
	if start, err := record.Start(r.PID); err != nil || start != r.Start || ns.ID() != r.Namespace && r.Namespace != 0 {
		return nil, errors.Join(fmt.Errorf("process %d is not the one that was meant: %w", r.PID, errdefs.ErrNotFound), ns.Close())
	}
	if ns.ID() == s.own {
		return nil, errors.Join(fmt.Errorf("container %s is in the node's network: egress policy would be the node's: %w", r.Container, errdefs.ErrFailedPrecondition), ns.Close())
	}
	r.Namespace = ns.ID()
	if err := s.dir.store(r); err != nil { // before there is something that it could forget
		return nil, errors.Join(err, ns.Close())
	}
	opened, err := egress.Open(ns, r.Base)
	if err != nil {
		s.dir.remove(r.Namespace)
		return nil, err
	}
	r.Leases = nil
	return &space{Space: opened, pidfd: pidfd, saved: r, ledger: newLedger(s.now())}, nil
}

// Guard implements api.Tunnels.
func (s *Service) Guard(_ context.Context, r api.GuardRequest) (api.GuardResponse, error) {
	if r.Cgroup == 0 || r.CgroupLevel == 0 || r.Port == 0 || r.PID <= 0 {
		return api.GuardResponse{}, fmt.Errorf("a process, the interceptor's cgroup and its port are needed: %w", errdefs.ErrInvalidArgument)
	}
	base := egress.Base{Interceptor: nft.Cgroup{ID: r.Cgroup, Level: r.CgroupLevel}, Port: r.Port, Web: r.Web, Pass: nft.NewPass()}
	want := saved{Version: recordVersion, Container: r.Container, PID: r.PID, Start: r.PIDStart, Base: base}
	ns, err := enter.Process(r.PID)
	if err != nil {
		return api.GuardResponse{}, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	id := ns.ID()
	if err := ns.Close(); err != nil {
		return api.GuardResponse{}, err
	}
	sp, fresh, err := s.guarded(id, want)
	if err != nil {
		return api.GuardResponse{}, err
	}
	if !fresh {
		err = s.again(sp, base)
	}
	return api.GuardResponse{Namespace: sp.Namespace()}, err
}

// guarded is a namespace, guarded as wanted where it is not yet.
func (s *Service) guarded(id uint64, want saved) (sp *space, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.spaces[id]; sp != nil && !ended(sp.pidfd) {
		return sp, false, nil
	} else if sp != nil { // another container came into the namespace before it was noticed that this one has ended
		delete(s.spaces, id)
		if err := s.end(sp); err != nil {
			return nil, false, fmt.Errorf("what container %s left in the network namespace: %w", sp.saved.Container, err)
		}
	}
	if sp, err = s.open(want); err != nil {
		return nil, false, err
	}
	s.spaces[sp.Namespace()] = sp
	return sp, true, nil
}

// again guards a namespace that is guarded, maybe for another interceptor.
func (s *Service) again(sp *space, base egress.Base) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	base.Pass = sp.saved.Base.Pass
	if err := sp.Rebase(base); err != nil {
		return err
	}
	sp.saved.Base = base
	return s.save(sp)
}

// save writes a space down. sp.mu is held.
func (s *Service) save(sp *space) error {
	sp.saved.Leases = slices.Collect(maps.Values(sp.before))
	for _, u := range sp.uses {
		if u.way != nil {
			id := s.provisioned.id(u.lease.Tunnel, u.lease.Slot)
			sp.ledger.hold(id, u.lease.Tunnel)
			sp.saved.Leases = append(sp.saved.Leases, savedLease{u.lease, u.way.Mark, u.way.Index, u.made, id})
		}
	}
	return s.dir.store(sp.saved)
}

// find is a guarded namespace.
func (s *Service) find(namespace uint64) (*space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.spaces[namespace]; sp != nil {
		return sp, nil
	}
	return nil, fmt.Errorf("network namespace %d is not guarded: %w", namespace, errdefs.ErrNotFound)
}

// Release implements api.Tunnels.
func (s *Service) Release(_ context.Context, r api.ReleaseRequest) error {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return nil // whoever asks again is told the same
	}
	return s.release(sp)
}

// release ends a space, unless somebody else does.
func (s *Service) release(sp *space) error {
	id := sp.Namespace()
	s.mu.Lock()
	there := s.spaces[id] == sp
	if there {
		delete(s.spaces, id)
	}
	s.mu.Unlock()
	if !there {
		return nil
	}
	err := s.end(sp)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spaces[id] == nil { // else the record is that of another container by now
		s.dir.remove(id)
	}
	return err
}

// end closes a space that nobody finds any more, and gives its leases back.
func (s *Service) end(sp *space) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.over = true
	err := sp.Close()
	for _, u := range sp.uses {
		s.pool.Release(u.lease)
	}
	sp.uses = nil
	s.changes.ended()
	return errors.Join(err, unix.Close(sp.pidfd))
}
