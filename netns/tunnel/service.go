package tunnel

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/singleflight"

	"forefend.dev/forefend/netns/egress"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/openvpn"
	"forefend.dev/forefend/netns/owner"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// valid is what Attach's answers are good for: so long after a tunnel was drained there are new connections by it in a container whose
// agent nobody could tell.
const valid = 10 * time.Second

// When a tunnel is taken away by which no TCP connection goes: one that is drained when the last answer that named it is no good any more,
// with the time that a connection takes to be begun by it, others when nobody has asked for it for long. A connection by which nothing
// passes for longer than it may rest is none.
const (
	unasked        = 5 * time.Minute
	unaskedDrained = 2 * valid
	rest           = time.Hour
	restDrained    = 5 * time.Minute
)

// How often connections are looked for by a tunnel that is about to be taken away: by a dump of the namespace's sockets.
const (
	lookEvery        = 30 * time.Second
	lookEveryDrained = tick
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
	// resolve finds an endpoint's address, for as long as it takes: no lock is held meanwhile.
	resolve func(ctx context.Context, endpoint string) (netip.AddrPort, error)
	load    func(*space, *use) (owner.Load, error) // what goes by a device

	kinds       map[Kind]maker
	openVPN     *openVPN // one of the kinds
	drains      drains
	changes     *wayChanges
	provisioned *provisioned       // what makes the devices of tunnels whose peers are a gateway's
	resumed     sync.WaitGroup     // of devices that are waited for
	moving      sync.WaitGroup     // of devices whose next endpoint is looked for
	opening     singleflight.Group // devices that are being made, by lease

	mu     sync.Mutex        // taken before a space's
	spaces map[uint64]*space // by namespace, guarded by mu
	ahead  foresight

	downs downs
}

var _ api.Tunnels = (*Service)(nil)

// space is a guarded namespace.
type space struct {
	*egress.Space
	pidfd  int // of the process whose end is the namespace's
	ledger *ledger

	mu    sync.Mutex // held while something changes, and while it is written down
	saved saved      // guarded by mu
	uses  []*use     // guarded by mu
	// before are leases of an earlier process whose devices are not there again yet. Guarded by mu.
	before map[Lease]savedLease
	over   bool // guarded by mu: released

	numbers numbers // of wayChanges, guarded by the mu there
}

// use is a tunnel in a namespace.
type use struct {
	lease     Lease
	way       *egress.Way // nil: the container's own uplink
	tunnel    Tunnel
	made      string    // the print of the configuration that the device is of
	asked     time.Time // when Attach was last asked for it
	looked    time.Time // when connections by it were last looked for
	endpoint  int       // of the tunnel's, the one that is in use
	tried     int       // endpoints in a row that did not answer
	sent, got uint64    // bytes, when that was last looked at
	shaken    time.Time // when its last handshake was, by then
	ahead     bool      // it was attached before it was asked for
	asks      uint64    // how often it was asked for
	silent    time.Time // since when what was sent has had no answer; zero: it had
	mute      uint64    // bytes that had been sent by then
	moving    bool      // its next endpoint is looked for
}

// Open makes a service of a pool, whose records are in dir, and what is drained in a file of its own. Namespaces and leases that it had in an
// earlier process it takes up again, and what was drained is. admit is called with each process that the service starts, before that reaches for the network.
func Open(ctx context.Context, pool *Pool, dir, drained string, admit func(pid int) error) (*Service, error) {
	home, err := enter.Process(os.Getpid())
	if err != nil {
		return nil, err
	}
	defer home.Close()
	s := &Service{pool: pool, dir: recordDir(dir), own: home.ID(), now: time.Now, resolve: resolve, load: carried, drains: drains{file: drained}, changes: newWayChanges(), provisioned: newProvisioned(), spaces: make(map[uint64]*space)}
	s.openVPN = newOpenVPN(admit, s.found)
	s.kinds = map[Kind]maker{WireGuard: wireGuard{}, OpenVPN: s.openVPN}
	if err := openvpn.Sweep(); err != nil {
		log.G(ctx).WithError(err).Warn("forefend tunneld: devices that an earlier process left")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of guarded namespaces: %w", err)
	}
	all, err := s.dir.load()
	if err != nil {
		return nil, err
	}
	if err := s.drains.take(ctx, pool); err != nil {
		log.G(ctx).WithError(err).Warn("forefend tunneld: drained tunnels")
	}
	for _, saved := range all {
		if err := s.resume(ctx, saved); err != nil {
			log.G(ctx).WithError(err).WithField("container", saved.Container).Warn("forefend tunneld: a namespace of before is not taken up again")
			s.dir.remove(saved.Namespace)
		}
	}
	return s, nil
}

// resume takes a namespace up again, with its tunnels under the marks and indices that they had.
func (s *Service) resume(ctx context.Context, old saved) error {
	sp, err := s.open(old)
	if err != nil {
		return err
	}
	s.spaces[old.Namespace] = sp // nobody else has s yet
	sp.before = make(map[Lease]savedLease)
	for _, l := range old.Leases {
		sp.before[l.Lease] = l
	}
	for _, l := range old.Leases {
		tunnel, err := s.restore(l)
		again := func() {
			if err == nil {
				_, err = s.wire(ctx, sp, l.Lease, tunnel)
			}
			if err != nil {
				s.provisioned.forgo(l.Tunnel, l.Slot, l.Provision)
				s.pool.Release(l.Lease)
				sp.mu.Lock()
				if _, still := sp.before[l.Lease]; still && !sp.over {
					sp.strand(ctx, l.Index)
				}
				sp.freeLocked(l.Mark, s.now())
				delete(sp.before, l.Lease)
				sp.mu.Unlock()
				log.G(ctx).WithError(err).WithField("container", old.Container).Warn("forefend tunneld: a tunnel of before is not attached again")
			}
		}
		if tunnel.Kind == OpenVPN || tunnel.Gateway.Address != "" { // others need not wait for its gateway
			s.resumed.Go(again)
		} else {
			again()
		}
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return s.save(sp)
}

// restore has somebody have the slot that was his before this process began, with what a gateway gave for it.
func (s *Service) restore(l savedLease) (Tunnel, error) {
	t, err := s.pool.Restore(l.Lease)
	if err == nil { // else the slot is another one's, who gets another peer
		s.provisioned.resume(l.Tunnel, l.Slot, l.Provision)
	}
	return t, err
}

// Tunnels implements api.Tunnels.
func (s *Service) Tunnels(context.Context) (api.TunnelsResponse, error) {
	var out api.TunnelsResponse
	out.Ahead = s.ahead.counts()
	uses := make(map[string][]api.TunnelUse)
	for _, sp := range s.all() {
		g, list := sp.describe()
		out.Guarded = append(out.Guarded, g)
		for name, u := range list {
			uses[name] = append(uses[name], u...)
		}
	}
	for _, t := range s.pool.List() {
		ready, trouble := s.provisioned.standing(t.Tunnel.Name)
		out.Tunnels = append(out.Tunnels, api.Tunnel{
			Gateway: t.Tunnel.Gateway.Address, Ready: ready, Trouble: trouble,
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
			Slot: u.lease.Slot, Mark: marks.Direct, Ahead: u.ahead, Asked: u.asks,
		}
		if u.way != nil {
			out.Mark, out.Device, out.Engine = u.way.Mark, u.way.Device, u.way.Kind()
			if stats, err := u.way.Stats(); err == nil {
				out.Handshake, out.Received, out.Sent = stats.Handshake, stats.Received, stats.Sent
			}
			if load, err := sp.Load(u.way); err == nil {
				out.Connections = load.Connections
			}
		}
		uses[u.lease.Tunnel] = append(uses[u.lease.Tunnel], out)
	}
	return g, uses
}
