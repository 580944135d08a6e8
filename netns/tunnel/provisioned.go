package tunnel

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/credentials"
)

// Gateway is where a tunnel's peers come from that has no slots of its own: `forefend gateway` (docs/gateway.md).
type Gateway struct {
	Address string // https://HOST:PORT; "": nowhere
	CA      string // file with whose certificates gateways have
	Cert    string // file with this node's certificate
	Key     string // file with its key
	Class   string // of rates, as the gateway names it
	Ready   int    // peers that are there before they are asked for
	Rekey   time.Duration

	ReceiptKey string // public one of its receipts, in base64; "": the first that it shows
}

// provisioned makes the devices of such tunnels. What has to be asked for in time (renewals, other keys, peers in reserve) it asks for
// beside those who wait for a device.
type provisioned struct {
	now func() time.Time

	mu     sync.Mutex
	far    map[string]*distant // by tunnel, guarded by mu
	before map[place]string    // leases of an earlier process, by where they were in use; guarded by mu
	ending bool                // guarded by mu: what is closed from now on is for the process after this one

	work  sync.WaitGroup // asking
	quiet context.CancelFunc
	ctx   context.Context // of all asking, which no caller waits for; ends with quiet
}

var _ maker = (*provisioned)(nil)

func newProvisioned() *provisioned {
	p := &provisioned{now: time.Now, far: make(map[string]*distant), before: make(map[place]string)}
	p.ctx, p.quiet = context.WithCancel(context.Background())
	return p
}

func (*provisioned) check(t *Tunnel) error {
	return (&credentials.Files{CA: t.Gateway.CA, Cert: t.Gateway.Cert, Key: t.Gateway.Key}).Check()
}

// of is the far end of a tunnel.
func (p *provisioned) of(t *Tunnel) (*distant, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.far[t.Name]
	if f != nil && f.gateway == t.Gateway && f.strong == (t.Encryption >= flow.Strong) {
		return f, nil
	}
	who := &credentials.Files{CA: t.Gateway.CA, Cert: t.Gateway.Cert, Key: t.Gateway.Key}
	client, err := provision.NewClient(t.Gateway.Address, who.Load)
	if err != nil {
		return nil, fmt.Errorf("tunnel %s: %w", t.Name, err)
	}
	fresh := &distant{tunnel: t.Name, gateway: t.Gateway, strong: t.Encryption >= flow.Strong, client: client, now: p.now, peers: make(map[string]*peer)}
	if f != nil {
		p.work.Go(func() { f.retire(p.ctx) })
		fresh.old = f
	}
	p.far[t.Name] = fresh
	return fresh, nil
}

// plan readies a slot's device with a peer of the gateway's: the one of before, one in reserve, or a new one.
func (p *provisioned) plan(ctx context.Context, s site) (link.Plan, error) {
	f, err := p.of(s.tunnel)
	if err != nil {
		return link.Plan{}, err
	}
	at := place{s.tunnel.Name, s.slot}
	p.mu.Lock()
	id := p.before[at]
	delete(p.before, at)
	p.mu.Unlock()
	one, err := f.take(ctx, id)
	if err != nil {
		return link.Plan{}, fmt.Errorf("tunnel %s: %w", s.tunnel.Name, err)
	}
	if !s.trial {
		defer p.serve(f, false) // what was taken of the reserve is asked for again
	}
	server, lease := one.state()
	to, err := resolve(ctx, server.Endpoints[0])
	if err != nil {
		f.giveBack(p.ctx, &p.work, one)
		return link.Plan{}, fmt.Errorf("tunnel %s: %w", s.tunnel.Name, err)
	}
	s.tunnel.Endpoints, s.tunnel.MTU = server.Endpoints, min(s.tunnel.MTU, server.MTU)
	c := one.config(wg.Config{MTU: s.tunnel.MTU, Endpoint: to, Keepalive: s.tunnel.Keepalive, DSCP: s.dscp})
	return link.Plan{Addresses: lease.Addresses, MTU: c.MTU, Drop: func() { f.giveBack(p.ctx, &p.work, one) },
		Make: func(ns *enter.Namespace, name string, index int) (link.Device, error) {
			c.Name, c.Index = name, index
			return p.make(ns, s, c, f, one)
		}}, nil
}

// make makes the device of a peer, which is given back with it.
func (p *provisioned) make(ns *enter.Namespace, s site, c wg.Config, f *distant, one *peer) (link.Device, error) {
	open := wg.New
	if s.trial {
		c.Keepalive, open = time.Second, wg.NewUser // it speaks without being brought up, which the kernel's does not
	}
	made, err := open(ns, c)
	if err != nil {
		f.giveBack(p.ctx, &p.work, one)
		return nil, err
	}
	d := &leased{Rekeyed: made.(wg.Rekeyed), peer: one, close: func() { p.closed(f, one) }} // wg's devices all are
	one.carry(d.Rekeyed, c)
	f.place(one, s.slot)
	return d, nil
}

// closed gives a peer back whose device has ended, unless it is for the process after this one.
func (p *provisioned) closed(f *distant, one *peer) {
	one.carry(nil, wg.Config{})
	p.mu.Lock()
	ending := p.ending
	p.mu.Unlock()
	if !ending {
		f.giveBack(p.ctx, &p.work, one)
	}
}

// id is the lease that is in use in a slot, "" for none.
func (p *provisioned) id(tunnel string, slot int) string {
	p.mu.Lock()
	f := p.far[tunnel]
	p.mu.Unlock()
	if f == nil {
		return ""
	}
	return f.in(slot)
}

// resume has a slot go on with the lease that it had in an earlier process.
func (p *provisioned) resume(tunnel string, slot int, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != "" {
		p.before[place{tunnel, slot}] = id
	}
}

// forgo undoes resume, where nobody has taken the lease up: it is nobody else's.
func (p *provisioned) forgo(tunnel string, slot int, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := (place{tunnel, slot}); p.before[at] == id {
		delete(p.before, at)
	}
}

// keep has each tunnel's far end asked for what is due. It does not wait.
func (p *provisioned) keep(all []Standing) {
	for _, s := range all {
		if s.Tunnel.Gateway.Address == "" {
			continue
		}
		if f, err := p.of(&s.Tunnel); err == nil {
			p.serve(f, s.Draining)
		}
	}
}

// serve has a far end asked for what is due, unless it is being asked.
func (p *provisioned) serve(f *distant, draining bool) {
	if !f.begin() {
		return
	}
	p.work.Go(func() {
		defer f.done()
		if err := f.upkeep(p.ctx, draining); err != nil && p.ctx.Err() == nil {
			log.G(p.ctx).WithError(err).WithField("tunnel", f.tunnel).Warn("forefend tunneld: leases of a gateway")
		}
	})
}

// standing is how many peers wait in reserve, and what is wrong with the far end.
func (p *provisioned) standing(tunnel string) (ready int, trouble string) {
	p.mu.Lock()
	f := p.far[tunnel]
	p.mu.Unlock()
	if f == nil {
		return 0, ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ready), f.trouble
}

// halt has what is closed from now on kept for the process after this one.
func (p *provisioned) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending = true
}

// lastWords bounds how long the end waits for gateways.
const lastWords = 2 * time.Second

// end gives back what is in reserve.
func (p *provisioned) end() {
	p.quiet()
	p.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all sync.WaitGroup
	for _, f := range p.far {
		all.Go(func() {
			f.retire(ctx)
			f.client.Close()
		})
	}
	all.Wait()
}

// leased is a device whose peer is a gateway's for a while.
type leased struct {
	wg.Rekeyed
	peer  *peer
	once  sync.Once
	close func()
}

// Stats implements link.Device.
func (l *leased) Stats() (link.Stats, error) {
	s, err := l.Rekeyed.Stats()
	if l.peer.lost() {
		s.Fault, s.Ended = "the gateway has ended its lease", true
	}
	return s, err
}

// Move implements link.Device.
func (l *leased) Move(to netip.AddrPort) error {
	err := l.Rekeyed.Move(to)
	if err == nil {
		l.peer.moved(to)
	}
	return err
}

// Close implements link.Device.
func (l *leased) Close() error {
	err := l.Rekeyed.Close()
	l.once.Do(l.close)
	return err
}

// newPrivate makes a private key. It leaves this process in no message.
func newPrivate() (k wg.Key) {
	_, _ = rand.Read(k[:]) // it never fails
	return k
}

// soon is a third of a term: when leases are renewed, so that two renewals may fail.
func soon(term time.Duration) time.Duration { return max(term/3, time.Second) }

// gone tells a lease that there is not from a gateway that cannot be asked.
func gone(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) }
