package tunnel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
)

// Holder is who has a lease. Workload and User are empty for what a whole namespace shares, QoS for what has no code point of its own.
type Holder struct {
	Namespace uint64 `json:"namespace"`
	Workload  string `json:"workload,omitempty"`
	User      string `json:"user,omitempty"`
	QoS       string `json:"qos,omitempty"`
}

// Lease is a slot of a tunnel in somebody's hands. That of a direct tunnel has none.
type Lease struct {
	Tunnel string `json:"tunnel"`
	Slot   int    `json:"slot"`
	Holder Holder `json:"holder"`
}

// Health of a tunnel, as its devices tell.
type Health string

// The states of health.
const (
	Unknown Health = "unknown" // nobody uses it
	Up      Health = "up"
	Down    Health = "down"
)

// Standing is how it stands with a tunnel.
type Standing struct {
	Tunnel   Tunnel
	Health   Health
	Reason   string // why it is down
	Draining bool
	Leases   []Lease
}

// Pool hands out the node's tunnels. It touches nothing but itself. Its methods may be called from any goroutine.
type Pool struct {
	mu      sync.Mutex
	tunnels []*member        // guarded by mu, as is what they hold
	turns   uint64           // how often a lease was handed out; guarded by mu
	turn    map[Lease]uint64 // when each that is held was the last time; guarded by mu
}

type member struct {
	Tunnel
	health   Health
	reason   string
	draining bool
	leases   []Lease
}

// NewPool makes a pool of these tunnels, whose names differ.
func NewPool(tunnels []Tunnel) *Pool {
	p := &Pool{turn: make(map[Lease]uint64)}
	for _, t := range tunnels {
		p.tunnels = append(p.tunnels, &member{Tunnel: t, health: Unknown})
	}
	return p
}

// Lease finds a tunnel that does what a profile asks, and at least that: encryption, and a slot of one's own where it is to be
// dedicated. Who holds one that does keeps it, of several the one that it had last. A tunnel that is down, drained or full is passed over
// for another one of what the profile names, never for one that is weaker, and one that is drained also by who holds it; the error says
// why each was, and wraps errdefs.ErrUnavailable.
func (p *Pool) Lease(want flow.Profile, h Holder) (Lease, Tunnel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !want.Dedicated {
		h.Workload, h.User = "", ""
	}
	var fit []*member
	var passed []error
	for _, m := range p.tunnels {
		if why := m.lacks(want, m.holder(want, h)); why != "" {
			passed = append(passed, fmt.Errorf("%s: %s", m.Name, why))
			continue
		}
		fit = append(fit, m)
	}
	if len(fit) == 0 {
		return Lease{}, Tunnel{}, fmt.Errorf("no tunnel for %s: %w", describe(want), errors.Join(append(passed, errdefs.ErrUnavailable)...))
	}
	m := slices.MinFunc(fit, func(a, b *member) int {
		return cmp.Or(
			cmp.Compare(a.Encryption, b.Encryption),                                              // no more than is asked for, where that can be
			-cmp.Compare(p.turnLocked(a, a.holder(want, h)), p.turnLocked(b, b.holder(want, h))), // who has one keeps it
			-flag(a.health == Up, b.health == Up),
			cmp.Compare(a.load(), b.load()),
			cmp.Compare(a.Name, b.Name))
	})
	h = m.holder(want, h)
	i := m.holds(h)
	if i < 0 {
		i = len(m.leases)
		m.leases = append(m.leases, Lease{Tunnel: m.Name, Slot: m.free(want.Dedicated), Holder: h})
	}
	p.turns++
	p.turn[m.leases[i]] = p.turns
	return m.leases[i], m.Tunnel, nil
}

// turnLocked is when somebody was handed a tunnel's lease the last time; 0: there is none. mu is held.
func (p *Pool) turnLocked(m *member, h Holder) uint64 {
	if i := m.holds(h); i >= 0 {
		return p.turn[m.leases[i]]
	}
	return 0
}

// holder is who would have a lease of the tunnel. WireGuard writes one code point on all that a device sends, so each class has a device;
// the others write what the packets have that go in.
func (m *member) holder(want flow.Profile, h Holder) Holder {
	if m.Kind == WireGuard && flow.DSCP(want.QoS) != 0 {
		h.QoS = want.QoS
	}
	return h
}

// flag orders false before true.
func flag(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func describe(want flow.Profile) string {
	text := "encryption " + want.Encryption.String()
	if want.Dedicated {
		text += ", dedicated"
	}
	if want.Endpoint != "" {
		text += ", endpoint " + want.Endpoint
	}
	return text
}

// lacks says why a tunnel does not do, "" where it does.
func (m *member) lacks(want flow.Profile, h Holder) string {
	switch {
	case want.Endpoint != "" && want.Endpoint != m.Name && want.Endpoint != m.class():
		return "it is another one"
	case m.Encryption < want.Encryption:
		return "its encryption is " + m.Encryption.String()
	case m.Kind == Direct && want.Dedicated:
		return "the container's uplink is not dedicated to anybody"
	case m.health == Down:
		return "it is down, " + m.reason
	case m.draining:
		return "it is drained"
	case m.holds(h) < 0 && m.free(want.Dedicated) < 0:
		return fmt.Sprintf("its %d slots are taken", len(m.Slots))
	}
	return ""
}

// holds is the index of somebody's lease, -1 for none.
func (m *member) holds(h Holder) int {
	return slices.IndexFunc(m.leases, func(l Lease) bool { return l.Holder == h })
}

// free is a free slot for a dedicated lease, or for a shared one; -1 for none. A direct tunnel has as many as are asked for.
func (m *member) free(dedicated bool) int {
	if m.Kind == Direct {
		return 0
	}
	taken := m.taken()
	shared := len(m.Slots) - m.Dedicated
	for n := range m.Slots {
		if dedicated {
			n = len(m.Slots) - 1 - n // those that are kept for it first
		} else if n >= shared {
			break
		}
		if !taken[n] {
			return n
		}
	}
	return -1
}

// taken tells which slots are.
func (m *member) taken() []bool {
	taken := make([]bool, len(m.Slots))
	for _, l := range m.leases {
		taken[l.Slot] = true
	}
	return taken
}

// load is the share of slots that are taken, in thousandths.
func (m *member) load() int {
	if len(m.Slots) == 0 {
		return 0
	}
	return 1000 * len(m.leases) / len(m.Slots)
}

// Restore gives back a lease that somebody held before this process began.
func (p *Pool) Restore(l Lease) (Tunnel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(l.Tunnel)
	switch {
	case m == nil:
		return Tunnel{}, fmt.Errorf("tunnel %s is not configured any more: %w", l.Tunnel, errdefs.ErrNotFound)
	case m.Kind != Direct && (l.Slot < 0 || l.Slot >= len(m.Slots)):
		return Tunnel{}, fmt.Errorf("tunnel %s has no slot %d any more: %w", l.Tunnel, l.Slot, errdefs.ErrNotFound)
	case m.Kind != Direct && slices.ContainsFunc(m.leases, func(o Lease) bool { return o.Slot == l.Slot }):
		return Tunnel{}, fmt.Errorf("slot %d of tunnel %s is taken: %w", l.Slot, l.Tunnel, errdefs.ErrAlreadyExists)
	}
	m.leases = append(m.leases, l)
	p.turns++
	p.turn[l] = p.turns
	return m.Tunnel, nil
}

// Release gives a lease back. One that was given back already is none.
func (p *Pool) Release(l Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.turn, l)
	if m := p.find(l.Tunnel); m != nil {
		m.leases = slices.DeleteFunc(m.leases, func(o Lease) bool { return o == l })
	}
}

// spare are the next n slots that a tunnel gives out, those that are kept for dedicated leases after the others.
func (p *Pool) spare(name string, n int) []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	if m == nil {
		return nil
	}
	taken := m.taken()
	shared := len(m.Slots) - m.Dedicated
	var free []int
	for i := range m.Slots {
		if i >= shared { // the last of these is given out first
			i = len(m.Slots) - 1 - (i - shared)
		}
		if !taken[i] && len(free) < n {
			free = append(free, i)
		}
	}
	return free
}

// held tells whether a lease was not given back.
func (p *Pool) held(l Lease) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(l.Tunnel)
	return m != nil && slices.Contains(m.leases, l)
}

// Report says how a tunnel was found, and why it is down. It returns whether it is down and was not before.
func (p *Pool) Report(name string, h Health, reason string) (fell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	if m == nil {
		return false
	}
	fell = h == Down && m.health != Down
	m.health, m.reason = h, reason
	return fell
}

// stranded are the namespaces that have leases of a tunnel that is down; none of one that is not.
func (p *Pool) stranded(name string) (namespaces []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	if m == nil || m.health != Down {
		return nil
	}
	for _, l := range m.leases {
		namespaces = append(namespaces, l.Holder.Namespace)
	}
	return namespaces
}

// Drain has a tunnel be handed to nobody, also not to who holds a lease of it, or to anybody again. Leases stay until they are given back.
// The error wraps errdefs.ErrNotFound.
func (p *Pool) Drain(name string, on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	if m == nil {
		return fmt.Errorf("no tunnel is called %q, forefend tunnel ls lists them: %w", name, errdefs.ErrNotFound)
	}
	m.draining = on
	return nil
}

// drained tells whether a tunnel is handed to nobody.
func (p *Pool) drained(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(name)
	return m != nil && m.draining
}

// allDrained are the names of the tunnels that are, in order.
func (p *Pool) allDrained() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.tunnels {
		if m.draining {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// List tells how it stands with all tunnels, in the order of the configuration.
func (p *Pool) List() []Standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Standing
	for _, m := range p.tunnels {
		all = append(all, Standing{Tunnel: m.Tunnel, Health: m.health, Reason: m.reason, Draining: m.draining, Leases: slices.Clone(m.leases)})
	}
	return all
}

// find is a tunnel by its name, nil for none. mu is held.
func (p *Pool) find(name string) *member {
	for _, m := range p.tunnels {
		if m.Name == name {
			return m
		}
	}
	return nil
}
