package tunnel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"slices"

	"github.com/containerd/log"
)

// Replace has the pool hand out these tunnels from now on, and returns the leases that hold no more: of tunnels that are gone, and of
// those whose devices would have to be made anew. Who has another lease keeps it.
func (p *Pool) Replace(tunnels []Tunnel) (cut []Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*member
	for _, t := range tunnels {
		m := &member{Tunnel: t, health: Unknown}
		if old := p.find(t.Name); old != nil {
			for _, l := range old.leases {
				if same(&old.Tunnel, &t, l.Slot) {
					m.leases = append(m.leases, l)
				}
			}
			m.draining = old.draining // it is the name that an operator has drained
			if same(&old.Tunnel, &t, -1) {
				m.health, m.reason = old.health, old.reason
			}
		}
		all = append(all, m)
	}
	before := p.tunnels
	p.tunnels = all
	for _, old := range before {
		now := p.find(old.Name)
		for _, l := range old.leases {
			if now == nil || !slices.Contains(now.leases, l) {
				cut = append(cut, l)
				delete(p.turn, l)
			}
		}
	}
	return cut
}

// same tells whether a slot's device would be the same by two configurations of a tunnel; -1 is any slot that both have.
func same(a, b *Tunnel, slot int) bool {
	if a.Kind != Direct && slot >= 0 && (slot >= len(a.Slots) || slot >= len(b.Slots) || !reflect.DeepEqual(a.Slots[slot], b.Slots[slot])) {
		return false
	}
	return reflect.DeepEqual(a.bare(), b.bare())
}

// bare is the tunnel without its slots, and without that of which no device knows.
func (t *Tunnel) bare() Tunnel {
	b := *t
	b.Class, b.Slots, b.Dedicated, b.OpenVPN.Ready, b.Gateway.Ready = "", nil, 0, 0, 0
	return b
}

// print is a digest that two configurations share where they are the same for a slot's device.
func (t *Tunnel) print(slot int) string {
	b := t.bare()
	if slot < len(t.Slots) {
		b.Slots = t.Slots[slot : slot+1]
	}
	text, _ := json.Marshal(b) // it has nothing that could not be
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Reload has other tunnels served than before. What goes by one that is gone, or that is another one by now, is cut: it goes nowhere, and
// who asks again gets what there is. What goes by others goes on.
func (s *Service) Reload(ctx context.Context, tunnels []Tunnel) error {
	cut, err := s.drains.replace(s.pool, tunnels)
	s.openVPN.forget(tunnels)
	errs := []error{err}
	for _, sp := range s.all() {
		sp.mu.Lock()
		for _, u := range slices.Clone(sp.uses) {
			if slices.Contains(cut, u.lease) {
				errs = append(errs, s.drop(sp, u))
			}
		}
		sp.mu.Unlock()
	}
	log.G(ctx).WithField("tunnels", len(tunnels)).WithField("cut", len(cut)).Info("forefend tunneld: the configuration's tunnels are taken over")
	return errors.Join(errs...)
}

// forget gives up devices that wait by a configuration that holds no more.
func (o *openVPN) forget(tunnels []Tunnel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.failed)
	for at, a := range o.waiting {
		i := slices.IndexFunc(tunnels, func(t Tunnel) bool { return t.Name == at.tunnel })
		if i < 0 || !same(a.of, &tunnels[i], at.slot) {
			delete(o.waiting, at)
			o.begun.Go(a.drop)
		}
	}
}
