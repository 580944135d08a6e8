package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Attach implements api.Tunnels.
func (s *Service) Attach(ctx context.Context, r api.AttachRequest) (api.Attached, error) {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return api.Attached{}, err
	}
	if r.Profile.Deny {
		return api.Attached{}, fmt.Errorf("the profile denies, there is no tunnel for that: %w", errdefs.ErrInvalidArgument)
	}
	u, err := s.lease(ctx, sp, r.Profile, Holder{r.Namespace, r.Workload, r.User, ""})
	if err != nil {
		return api.Attached{}, err
	}
	out := api.Attached{Tunnel: u.tunnel.Name, Encryption: u.tunnel.Encryption, Mark: marks.Direct, Valid: valid, Receipts: u.tunnel.Gateway.Address != ""}
	if u.way != nil {
		out.Mark, out.Device = u.way.Mark, u.way.Device
		s.ahead.note(sp, u, r.Ahead)
	}
	return out, nil
}

// lease has a tunnel in a namespace. One whose device cannot be readied is down, and another one that does is tried.
func (s *Service) lease(ctx context.Context, sp *space, want flow.Profile, h Holder) (*use, error) {
	for {
		lease, tunnel, err := s.pool.Lease(want, h)
		if err != nil && want.QoS != "" {
			want.QoS = "" // better without its class than not at all
			continue
		}
		if err != nil {
			return nil, err
		}
		u, err := s.wire(ctx, sp, lease, tunnel)
		if unready := (*unreadyError)(nil); err == nil || !errors.As(err, &unready) && !errors.Is(err, errLapsed) || ctx.Err() != nil {
			return u, err
		}
	}
}

// errLapsed says that a lease was given back, with a device that had ended, between its being found and its being used.
var errLapsed = fmt.Errorf("the tunnel was taken away meanwhile: %w", errdefs.ErrUnavailable)

// unreadyError says why a tunnel's device could not be readied. The tunnel is down then.
type unreadyError struct{ error }

func (e *unreadyError) Unwrap() []error { return []error{e.error, errdefs.ErrUnavailable} }

// wire has a lease's device in a namespace, where it is not yet. A lease that comes to nothing is given back. Those who ask at once wait
// for the same device.
func (s *Service) wire(ctx context.Context, sp *space, l Lease, t Tunnel) (*use, error) {
	if u := sp.find(l, s.now()); u != nil {
		return u, nil
	}
	u, err, _ := s.opening.Do(fmt.Sprint(l), func() (any, error) {
		if u := sp.find(l, s.now()); u != nil {
			return u, nil
		}
		if !s.pool.held(l) {
			return nil, errLapsed
		}
		u := &use{lease: l, tunnel: t, made: t.print(l.Slot), asked: s.now()}
		if err := s.connect(ctx, sp, u); err != nil {
			s.pool.Release(l)
			return nil, err
		}
		return u, nil
	})
	if err != nil {
		return nil, err
	}
	return u.(*use), nil
}

// find is a lease's use, which is asked for once more; nil where there is none.
func (sp *space) find(l Lease, now time.Time) *use {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	i := slices.IndexFunc(sp.uses, func(u *use) bool { return u.lease == l })
	if i < 0 {
		return nil
	}
	sp.uses[i].asked = now
	return sp.uses[i]
}

// connect readies a use's device, and has it in the namespace: where it was before, whoever asks for it first.
func (s *Service) connect(ctx context.Context, sp *space, u *use) error {
	var p link.Plan
	if u.tunnel.Kind != Direct {
		to, err := s.first(ctx, &u.tunnel)
		if err == nil {
			p, err = s.maker(&u.tunnel).plan(ctx, site{tunnel: &u.tunnel, slot: u.lease.Slot, to: to, dscp: flow.DSCP(u.lease.Holder.QoS)})
			p.Rate = u.tunnel.Rate
		}
		if err != nil {
			if ctx.Err() == nil {
				s.found(u.lease.Tunnel, Down, err.Error())
			}
			return &unreadyError{fmt.Errorf("tunnel %s: %w", u.lease.Tunnel, err)}
		}
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.over {
		p.Close()
		return fmt.Errorf("the namespace was released: %w", errdefs.ErrNotFound)
	}
	if !s.pool.held(u.lease) { // the configuration is another one meanwhile
		p.Close()
		return errLapsed
	}
	old, again := sp.before[u.lease]
	var err error
	switch {
	case u.tunnel.Kind == Direct:
	case again && old.Made == u.made:
		sp.strand(ctx, old.Index, p.Addresses...)
		u.asks = 1 // the earlier process has counted it
		u.way, err = sp.AttachAs(old.Mark, old.Index, p)
	case again: // nothing that was decided for another configuration may go on, or begin
		sp.strand(ctx, old.Index)
		sp.freeLocked(old.Mark, s.now())
		u.asks = 1 // likewise
		fallthrough
	default:
		u.way, err = sp.Space.Attach(p, sp.keptLocked(s.now())...)
	}
	if err != nil {
		return err
	}
	delete(sp.before, u.lease)
	sp.uses = append(sp.uses, u)
	return s.save(sp)
}

// strand ends connections of an earlier process by a device that cannot go on: from an address that this one's has not, they would hang
// for as long as TCP sends again.
func (sp *space) strand(ctx context.Context, index int, again ...netip.Prefix) {
	if err := sp.Strand(index, again...); err != nil {
		log.G(ctx).WithError(err).WithField("container", sp.saved.Container).Warn("forefend tunneld: connections of before that cannot go on are not ended")
	}
}

// keptLocked are the marks that no other tunnel may have: of devices that are about to be where they were before, and those that interceptors
// may still go by, to which the tunnel that they were told of does not lead any more. mu is held.
func (sp *space) keptLocked(now time.Time) (all []uint32) {
	for _, l := range sp.before {
		all = append(all, l.Mark)
	}
	for mark, since := range sp.saved.Freed {
		if now.Sub(since) < unaskedDrained {
			all = append(all, mark)
		} else {
			delete(sp.saved.Freed, mark)
		}
	}
	return all
}

// freeLocked notes that a mark leads nowhere from now on. mu is held.
func (sp *space) freeLocked(mark uint32, now time.Time) {
	if sp.saved.Freed == nil {
		sp.saved.Freed = make(map[uint32]time.Time)
	}
	sp.saved.Freed[mark] = now
}

// first is the first endpoint of a tunnel. Where its gateway gives peers out, that says where it is, too.
func (s *Service) first(ctx context.Context, t *Tunnel) (netip.AddrPort, error) {
	if t.Gateway.Address != "" {
		return netip.AddrPort{}, nil
	}
	return s.resolve(ctx, t.Endpoints[0])
}

// resolve finds an endpoint's address, in this process's network.
func resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(endpoint); err == nil {
		return a, nil
	}
	a, err := net.DefaultResolver.LookupNetIP(ctx, "ip", hostOf(endpoint))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("endpoint %s: %w: %w", endpoint, err, errdefs.ErrUnavailable)
	}
	_, port, _ := net.SplitHostPort(endpoint) // the configuration was checked
	n, err := net.LookupPort("udp", port)
	if err != nil || len(a) == 0 {
		return netip.AddrPort{}, fmt.Errorf("endpoint %s has no address: %w", endpoint, errdefs.ErrUnavailable)
	}
	return netip.AddrPortFrom(a[0].Unmap(), uint16(n)), nil
}

func hostOf(endpoint string) string {
	host, _, _ := net.SplitHostPort(endpoint) // the configuration was checked
	return host
}
