package tunnel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/owner"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Run looks after namespaces and devices until ctx ends. Then all devices end: what went through them goes nowhere. Records stay.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	s.look(ctx)
	for {
		select {
		case <-ticker.C:
			s.look(ctx)
		case <-ctx.Done():
			s.resumed.Wait()
			s.moving.Wait()
			s.provisioned.halt()
			var errs []error
			for _, sp := range s.all() {
				errs = append(errs, s.end(sp))
			}
			s.openVPN.end()
			s.provisioned.end()
			return errors.Join(errs...)
		}
	}
}

// look finds what has ended, what nobody asks for, and which gateways do not answer.
func (s *Service) look(ctx context.Context) {
	for _, sp := range s.all() {
		if ended(sp.pidfd) {
			if err := s.release(sp); err != nil {
				log.G(ctx).WithError(err).Warn("forefend tunneld: release a namespace whose container has ended")
			}
			continue
		}
		sp.mu.Lock()
		for _, u := range slices.Clone(sp.uses) {
			if err := s.check(ctx, sp, u); err != nil {
				log.G(ctx).WithError(err).WithField("tunnel", u.lease.Tunnel).Warn("forefend tunneld: tunnel of " + sp.saved.Container)
			}
		}
		sp.mu.Unlock()
	}
	s.tellDown(ctx)
	s.openVPN.keep(s.now(), s.pool.List(), s.pool.spare)
	s.provisioned.keep(s.pool.List())
	s.tryAgain()
}

// ended tells whether a process has.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// check looks at one tunnel of a namespace. sp.mu is held.
func (s *Service) check(ctx context.Context, sp *space, u *use) error {
	if u.way == nil {
		return s.settle(sp, u)
	}
	stats, err := u.way.Stats()
	if err != nil {
		return err
	}
	if stats.Ended {
		return errors.Join(errors.New(stats.Fault), s.drop(sp, u))
	}
	// One that begins anew counts from nothing, and its gateway may say no more than it did the last time: the answer to a handshake.
	before, sends := u.sent, stats.Sent > u.sent
	if stats.Sent < u.sent {
		before, sends = 0, stats.Sent > 0
	}
	hears := stats.Received > u.got || stats.Handshake.After(u.shaken)
	u.sent, u.got = stats.Sent, stats.Received
	if stats.Handshake.After(u.shaken) {
		u.shaken = stats.Handshake
	}
	switch {
	case stats.Fault != "":
		if u.silent.IsZero() {
			u.silent = s.now()
			s.found(u.lease.Tunnel, Down, stats.Fault)
		} else if s.now().Sub(u.silent) > u.tunnel.DeadAfter {
			return s.unanswered(ctx, sp, u)
		}
	case hears:
		u.silent, u.tried = time.Time{}, 0
		s.found(u.lease.Tunnel, Up, "")
	case sends && u.silent.IsZero():
		u.silent, u.mute = s.now(), before
	case sends && s.now().Sub(u.silent) > u.tunnel.DeadAfter && u.keepsAlive(s.now()):
		u.silent = time.Time{}
		s.begin(ctx, sp, u) // with a handshake, which has an answer
	case sends && s.now().Sub(u.silent) > u.tunnel.DeadAfter:
		return s.unanswered(ctx, sp, u)
	}
	return s.settle(sp, u)
}

// keepalive is what WireGuard sends where there is nothing to send, in bytes. There is no answer to it.
const keepalive = 32

// keepsAlive tells whether nothing else was sent since the gateway was heard the last time.
func (u *use) keepsAlive(now time.Time) bool {
	every := u.tunnel.Keepalive
	return u.tunnel.Kind == WireGuard && every > 0 && u.sent-u.mute <= keepalive*uint64((now.Sub(u.silent)+tick)/every+1)
}

// settle takes a tunnel away that nobody asks for and no connection goes by. sp.mu is held.
func (s *Service) settle(sp *space, u *use) error {
	now := s.now()
	after, every, resting := unasked, lookEvery, rest
	if s.pool.drained(u.lease.Tunnel) {
		after, every, resting = unaskedDrained, lookEveryDrained, restDrained
	}
	if now.Sub(u.asked) < after || now.Sub(u.looked) < every {
		return nil
	}
	u.looked = now
	if u.way != nil {
		load, err := s.load(sp, u)
		switch {
		case err != nil && now.Sub(u.asked) < rest: // a kernel that does not tell
			return err
		case err == nil && load.Connections > 0 && load.Quiet < resting:
			return nil
		}
	}
	return s.drop(sp, u)
}

// carried is what the kernel tells of a use's connections.
func carried(sp *space, u *use) (owner.Load, error) { return sp.Load(u.way) }

// drop takes a tunnel away. sp.mu is held.
func (s *Service) drop(sp *space, u *use) error {
	sp.uses = slices.DeleteFunc(sp.uses, func(o *use) bool { return o == u })
	var err error
	if u.way != nil {
		sp.freeLocked(u.way.Mark, s.now())
		err = sp.Detach(u.way)
	}
	s.pool.Release(u.lease)
	return errors.Join(err, s.save(sp))
}

// unanswered has a tunnel lead to the next of its endpoints. With none left it is down, and those who ask get another one. WireGuard
// begins anew with its only endpoint, too: a gateway that is back knows nothing of the session. OpenVPN does so by itself. sp.mu is held.
func (s *Service) unanswered(ctx context.Context, sp *space, u *use) error {
	u.silent = time.Time{}
	if (u.tunnel.Kind == WireGuard || len(u.tunnel.Endpoints) > 1) && !u.moving {
		u.endpoint = (u.endpoint + 1) % len(u.tunnel.Endpoints)
		s.begin(ctx, sp, u)
	}
	if u.tried++; u.tried < len(u.tunnel.Endpoints) {
		return nil
	}
	u.tried = 0
	s.found(u.lease.Tunnel, Down, fmt.Sprintf("nothing has come back for %s", u.tunnel.DeadAfter))
	return fmt.Errorf("its gateway does not answer: %w", errdefs.ErrUnavailable)
}

// begin has a tunnel begin anew with its endpoint. sp.mu is held.
func (s *Service) begin(ctx context.Context, sp *space, u *use) {
	if u.moving {
		return
	}
	u.moving = true
	endpoint := u.tunnel.Endpoints[u.endpoint]
	s.moving.Go(func() { s.move(ctx, sp, u, endpoint) })
}

// moveDeadline bounds how long an endpoint's name is looked up beside everything else.
const moveDeadline = 10 * time.Second

// move has a tunnel lead to an endpoint, unless it is gone by the time that its address is known.
func (s *Service) move(ctx context.Context, sp *space, u *use, endpoint string) {
	ctx, cancel := context.WithTimeout(ctx, moveDeadline)
	defer cancel()
	to, err := s.resolve(ctx, endpoint)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	u.moving = false
	if err == nil && slices.Contains(sp.uses, u) {
		err = u.way.Move(to)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("tunnel", u.lease.Tunnel).Warn("forefend tunneld: the next endpoint of a tunnel of " + sp.saved.Container)
	}
}

// tryDeadline bounds Try.
const tryDeadline = 10 * time.Second

// Try implements api.Tunnels.
func (s *Service) Try(ctx context.Context, r api.TryRequest) (api.TryResponse, error) {
	lease, t, err := s.pool.borrow(r.Tunnel)
	if err != nil {
		return api.TryResponse{}, err
	}
	defer s.pool.Release(lease)
	ctx, cancel := context.WithTimeout(ctx, tryDeadline)
	defer cancel()
	ns, err := enter.New()
	if err != nil {
		return api.TryResponse{}, err
	}
	defer ns.Close()
	if t.Gateway.Address != "" {
		out, err := handshake(ctx, ns, s.maker(&t), site{tunnel: &t, slot: lease.Slot, trial: true})
		if len(t.Endpoints) > 0 { // that the gateway told
			out.Endpoint = t.Endpoints[0]
		}
		return out, err
	}
	var errs []error
	for _, endpoint := range t.Endpoints {
		to, err := s.resolve(ctx, endpoint)
		if err == nil {
			var out api.TryResponse
			if out, err = handshake(ctx, ns, s.maker(&t), site{tunnel: &t, slot: lease.Slot, to: to, trial: true}); err == nil {
				out.Endpoint = endpoint
				return out, nil
			}
		}
		errs = append(errs, fmt.Errorf("endpoint %s: %w", endpoint, err))
	}
	return api.TryResponse{}, fmt.Errorf("tunnel %s: %w", t.Name, errors.Join(errs...))
}

// borrow is a lease of a certain tunnel, whatever its health, for a trial.
func (p *Pool) borrow(name string) (Lease, Tunnel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	switch {
	case m == nil:
		return Lease{}, Tunnel{}, fmt.Errorf("no tunnel is called %q, forefend tunnel ls lists them: %w", name, errdefs.ErrNotFound)
	case m.Kind == Direct:
		return Lease{}, Tunnel{}, fmt.Errorf("tunnel %s is the containers' own uplink, there is no gateway to answer: %w", name, errdefs.ErrFailedPrecondition)
	}
	slot := m.free(true)
	if slot < 0 {
		return Lease{}, Tunnel{}, fmt.Errorf("all %d slots of tunnel %s are in use, which forefend tunnel show tells more of: %w", len(m.Slots), name, errdefs.ErrUnavailable)
	}
	l := Lease{Tunnel: name, Slot: slot, Holder: Holder{Workload: "forefend tunnel test"}}
	m.leases = append(m.leases, l)
	return l, m.Tunnel, nil
}

// handshake opens a device and waits for the gateway's answer.
func handshake(ctx context.Context, ns *enter.Namespace, kind maker, on site) (api.TryResponse, error) {
	begun := time.Now()
	p, err := kind.plan(ctx, on)
	if err != nil {
		return api.TryResponse{}, err
	}
	d, err := p.Make(ns, "try0", 0)
	if err != nil {
		return api.TryResponse{}, err
	}
	out := api.TryResponse{Engine: d.Kind()}
	for ctx, cancel := context.WithTimeout(ctx, tryDeadline/2); ; {
		stats, err := d.Stats()
		if err == nil && stats.Fault != "" {
			err = fmt.Errorf("%s: %w", stats.Fault, errdefs.ErrUnavailable)
		}
		if err == nil && !stats.Handshake.IsZero() {
			out.Handshake = time.Since(begun)
		}
		if err == nil && out.Handshake == 0 {
			select {
			case <-ctx.Done():
				err = fmt.Errorf("the gateway does not answer, or does not know this key: %w", errdefs.ErrUnavailable)
			case <-time.After(time.Millisecond):
				continue
			}
		}
		cancel()
		return out, errors.Join(err, d.Close())
	}
}
