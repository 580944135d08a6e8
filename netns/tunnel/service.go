package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/egress"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
)

// What Attach's answers are good for, and when a tunnel that nobody asked for any more is taken away: long after that.
const (
	valid = 30 * time.Second
	idle  = 5 * time.Minute
)

// tick is how often the service looks at devices and processes.
const tick = time.Second

// retry is when a tunnel that was down is tried again.
const retry = 30 * time.Second

// Service serves a node's tunnels. It implements api.Tunnels.
type Service struct {
	pool *Pool
	dir  recordDir
	own  uint64 // the number of this process's namespace, which no container is in that could be guarded
	now  func() time.Time

	mu     sync.Mutex
	spaces map[uint64]*space    // by namespace, guarded by mu
	downAt map[string]time.Time // of tunnels, guarded by mu
}

var _ api.Tunnels = (*Service)(nil)

// space is a guarded namespace.
type space struct {
	*egress.Space
	pidfd int // of the process whose end is the namespace's

	mu    sync.Mutex // held while something changes, and while it is written down
	saved saved      // guarded by mu
	uses  []*use     // guarded by mu
	over  bool       // guarded by mu: released
}

// use is a tunnel in a namespace.
type use struct {
	lease     Lease
	way       *egress.Way // nil: the container's own uplink
	tunnel    Tunnel
	asked     time.Time // when Attach was last asked for it
	endpoint  int       // of the tunnel's, the one that is in use
	tried     int       // endpoints in a row that did not answer
	sent, got uint64    // bytes, when that was last looked at
	silent    time.Time // since when what was sent has had no answer; zero: it had
}

// Open makes a service of a pool, whose records are in dir. Namespaces and leases that it had in an earlier process it takes up again.
func Open(ctx context.Context, pool *Pool, dir string) (*Service, error) {
	home, err := enter.Process(os.Getpid())
	if err != nil {
		return nil, err
	}
	defer home.Close()
	s := &Service{pool: pool, dir: recordDir(dir), own: home.ID(), now: time.Now, spaces: make(map[uint64]*space), downAt: make(map[string]time.Time)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of guarded namespaces: %w", err)
	}
	all, err := s.dir.load()
	if err != nil {
		return nil, err
	}
	for _, saved := range all {
		if err := s.resume(ctx, saved); err != nil {
			log.G(ctx).WithError(err).WithField("container", saved.Container).Warn("forefend tunneld: a namespace of before is not taken up again")
			s.dir.remove(saved.Namespace)
		}
	}
	return s, nil
}

// resume takes a namespace up again, with its tunnels under the marks that they had.
func (s *Service) resume(ctx context.Context, old saved) error {
	sp, err := s.open(old)
	if err != nil {
		return err
	}
	s.spaces[old.Namespace] = sp // nobody else has s yet
	for _, l := range old.Leases {
		tunnel, err := s.pool.Restore(l.Lease)
		if err == nil {
			_, err = s.wire(ctx, sp, l.Lease, tunnel, l.Mark)
		}
		if err != nil {
			s.pool.Release(l.Lease)
			log.G(ctx).WithError(err).WithField("container", old.Container).Warn("forefend tunneld: a tunnel of before is not attached again")
		}
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return s.save(sp)
}

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
	return &space{Space: opened, pidfd: pidfd, saved: r}, nil
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
	if sp := s.spaces[id]; sp != nil {
		return sp, false, nil
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
	sp.saved.Leases = nil
	for _, u := range sp.uses {
		if u.way != nil {
			sp.saved.Leases = append(sp.saved.Leases, savedLease{u.lease, u.way.Mark})
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

// Attach implements api.Tunnels.
func (s *Service) Attach(ctx context.Context, r api.AttachRequest) (api.Attached, error) {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return api.Attached{}, err
	}
	if r.Profile.Deny {
		return api.Attached{}, fmt.Errorf("the profile denies, there is no tunnel for that: %w", errdefs.ErrInvalidArgument)
	}
	lease, tunnel, err := s.pool.Lease(r.Profile, Holder{r.Namespace, r.Workload, r.User})
	if err != nil {
		return api.Attached{}, err
	}
	u, err := s.wire(ctx, sp, lease, tunnel, 0)
	if err != nil {
		return api.Attached{}, err
	}
	out := api.Attached{Tunnel: tunnel.Name, Encryption: tunnel.Encryption, Mark: marks.Direct, Valid: valid}
	if u.way != nil {
		out.Mark, out.Device = u.way.Mark, u.way.Device
	}
	return out, nil
}

// wire has a lease's device in a namespace, where it is not yet: under a mark, or any if that is 0. A lease that comes to nothing
// is given back.
func (s *Service) wire(ctx context.Context, sp *space, l Lease, t Tunnel, mark uint32) (*use, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if i := slices.IndexFunc(sp.uses, func(u *use) bool { return u.lease == l }); i >= 0 {
		sp.uses[i].asked = s.now()
		return sp.uses[i], nil
	}
	u := &use{lease: l, tunnel: t, asked: s.now()}
	err := fmt.Errorf("the namespace was released: %w", errdefs.ErrNotFound)
	if !sp.over {
		err = s.connect(ctx, sp, u, mark)
	}
	if err != nil {
		s.pool.Release(l)
		return nil, err
	}
	sp.uses = append(sp.uses, u)
	return u, s.save(sp)
}

func (s *Service) connect(ctx context.Context, sp *space, u *use, mark uint32) error {
	if u.tunnel.Kind == Direct {
		return nil
	}
	endpoint, err := resolve(ctx, u.tunnel.Endpoints[0])
	if err != nil {
		return err
	}
	c, err := u.tunnel.device(u.lease.Slot, endpoint)
	if err != nil {
		return err
	}
	addresses := u.tunnel.Slots[u.lease.Slot].Addresses
	if mark != 0 {
		u.way, err = sp.AttachAs(mark, c, addresses)
	} else {
		u.way, err = sp.Space.Attach(c, addresses)
	}
	return err
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

// Release implements api.Tunnels.
func (s *Service) Release(_ context.Context, r api.ReleaseRequest) error {
	s.mu.Lock()
	sp := s.spaces[r.Namespace]
	delete(s.spaces, r.Namespace)
	s.mu.Unlock()
	if sp == nil {
		return nil // whoever asks again is told the same
	}
	err := s.end(sp)
	s.dir.remove(r.Namespace)
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
	return errors.Join(err, unix.Close(sp.pidfd))
}

// Tunnels implements api.Tunnels.
func (s *Service) Tunnels(context.Context) (api.TunnelsResponse, error) {
	var out api.TunnelsResponse
	uses := make(map[string][]api.TunnelUse)
	for _, sp := range s.all() {
		g, list := sp.describe()
		out.Guarded = append(out.Guarded, g)
		for name, u := range list {
			uses[name] = append(uses[name], u...)
		}
	}
	for _, t := range s.pool.List() {
		out.Tunnels = append(out.Tunnels, api.Tunnel{
			Name: t.Tunnel.Name, Kind: string(t.Tunnel.Kind), Class: t.Tunnel.Class, Encryption: t.Tunnel.Encryption, Endpoints: t.Tunnel.Endpoints,
			MTU: t.Tunnel.MTU, Health: string(t.Health), Reason: t.Reason, Draining: t.Draining, Slots: len(t.Tunnel.Slots), Dedicated: t.Tunnel.Dedicated,
			Uses: uses[t.Tunnel.Name],
		})
	}
	return out, nil
}

// all are the spaces, in the order of their namespaces.
func (s *Service) all() []*space {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*space
	for _, sp := range s.spaces {
		all = append(all, sp)
	}
	slices.SortFunc(all, func(a, b *space) int { return int(int64(a.Namespace()) - int64(b.Namespace())) })
	return all
}

func (sp *space) describe() (api.Guarded, map[string][]api.TunnelUse) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	g := api.Guarded{Container: sp.saved.Container, Namespace: sp.saved.Namespace}
	if counts, err := sp.Counts(); err == nil { // a namespace whose rules are gone has none
		g.Dropped = make(map[string]uint64)
		for c, n := range counts {
			g.Dropped[string(c)] = n
		}
	}
	uses := make(map[string][]api.TunnelUse)
	for _, u := range sp.uses {
		out := api.TunnelUse{
			Container: sp.saved.Container, Namespace: sp.saved.Namespace, Workload: u.lease.Holder.Workload, User: u.lease.Holder.User,
			Slot: u.lease.Slot, Mark: marks.Direct,
		}
		if u.way != nil {
			out.Mark, out.Device, out.Engine = u.way.Mark, u.way.Device, u.way.Kind()
			if stats, err := u.way.Stats(); err == nil {
				out.Handshake, out.Received, out.Sent = stats.Handshake, stats.Received, stats.Sent
			}
		}
		uses[u.lease.Tunnel] = append(uses[u.lease.Tunnel], out)
	}
	return g, uses
}

// Drain implements api.Tunnels.
func (s *Service) Drain(_ context.Context, r api.DrainRequest) error {
	return s.pool.Drain(r.Tunnel, !r.Undo)
}
