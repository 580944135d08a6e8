// Package egress is one container's (or pod's) network namespace as far as its ways out go: rules (package nft), routes (package
// route) and the devices of its tunnels (package link), put in force and taken away together (docs/decisions/0069).
//
// A Space opens nothing by itself: after Open all that leaves is what the interceptor marks Direct, and datagrams. Devices end with
// this process; rules and routes stay, so that what went by them goes nowhere.
package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/owner"
	"forefend.dev/forefend/netns/route"
)

// Base is what holds in a namespace whatever tunnels it has.
type Base struct {
	Interceptor nft.Cgroup `json:"interceptor"`
	Port        uint16     `json:"port"` // the interceptor's, on loopback
	Web         bool       `json:"web"`  // requests must be readable: no UDP to ports 443 and 853
	Pass        nft.Pass   `json:"pass"`
}

// Space is one namespace. Its methods may be called from any goroutine.
type Space struct {
	ns *enter.Namespace

	mu   sync.Mutex          // held while something changes
	base Base                // guarded by mu
	ways [marks.Tunnels]*Way // guarded by mu; nil: free
}

// Way is a tunnel of a Space.
type Way struct {
	Mark   uint32 // what the interceptor sets on its sockets
	Device string
	Index  int // of the device, which those sockets are bound to
	wire   link.Device
}

// Stats reads how the tunnel fares.
func (w *Way) Stats() (link.Stats, error) { return w.wire.Stats() }

// Move has the tunnel lead to another endpoint of its gateway.
func (w *Way) Move(to netip.AddrPort) error { return w.wire.Move(to) }

// Kind is whose work the device is.
func (w *Way) Kind() string { return w.wire.Kind() }

// Open closes a namespace: its rules and routes are in force when Open returns, whatever was there of ours before. The space keeps ns
// until Close, also after an error.
func Open(ns *enter.Namespace, base Base) (*Space, error) {
	s := &Space{ns: ns, base: base}
	err := ns.Do(func() error {
		if err := s.guard(base); err != nil {
			return err
		}
		// of an earlier process; the rules of netfilter hold
		return errors.Join(route.Clear(), route.ClearDevices())
	})
	if err == nil {
		err = ns.Do(func() error { return s.lead(base) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("close a network namespace: %w", err), ns.Close())
	}
	return s, nil
}

// Rebase changes the base under the tunnels that there are, and knows the devices and addresses that there are by now.
func (s *Space) Rebase(base Base) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.ns.Do(func() error { return errors.Join(s.guard(base), s.lead(base)) })
	if err != nil {
		return fmt.Errorf("change the base of a network namespace: %w", err)
	}
	s.base = base
	return nil
}

// Base is what holds.
func (s *Space) Base() Base {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// guard puts the rules in force, with those of the tunnels. It is called inside, with mu held or before anybody else has s.
func (s *Space) guard(base Base) error {
	own, devices, err := route.Sources()
	if err != nil {
		return err
	}
	state := nft.State{Interceptor: base.Interceptor, Port: base.Port, Pass: base.Pass, Web: base.Web}
	state.Own = own
	state.Uplinks = slices.DeleteFunc(devices, marks.IsDevice)
	for _, w := range s.ways {
		if w != nil && w.wire != nil {
			state.Tunnels = append(state.Tunnels, nft.Tunnel{Mark: w.Mark, Device: w.Device})
		}
	}
	return nft.Set(state)
}

// lead puts the routes in force that do not depend on tunnels.
func (s *Space) lead(base Base) error {
	own, _, err := route.Sources()
	if err != nil {
		return err
	}
	return route.Set(route.State{Sources: own, Web: base.Web})
}

// Namespace is the number of the namespace.
func (s *Space) Namespace() uint64 { return s.ns.ID() }

// Attach makes a device and leads a mark to it, which is none of those that are kept for others. A plan that comes to nothing is given up.
func (s *Space) Attach(p link.Plan, kept ...uint32) (*Way, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < marks.Tunnels && (s.ways[n] != nil || slices.Contains(kept, marks.Tunnel(n))) {
		n++
	}
	if n == marks.Tunnels {
		p.Close()
		return nil, fmt.Errorf("the namespace has %d tunnels already, and cannot have more", marks.Tunnels)
	}
	return s.attachLocked(n, marks.NewIndex(), p)
}

// AttachAs is Attach with the mark and the device's index that the tunnel had before, in an earlier process: connections of before, which
// are bound to that, go on. Index 0 is one that none is bound to.
func (s *Space) AttachAs(mark uint32, index int, p link.Plan) (*Way, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := marks.Index(mark)
	if !ok || s.ways[n] != nil {
		p.Close()
		return nil, fmt.Errorf("mark %#x is no tunnel's, or another one's", mark)
	}
	if index == 0 {
		index = marks.NewIndex()
	}
	return s.attachLocked(n, index, p)
}

func (s *Space) attachLocked(n, index int, p link.Plan) (*Way, error) {
	w := &Way{Mark: marks.Tunnel(n), Device: marks.Device(n)}
	var err error
	if w.wire, err = p.Make(s.ns, w.Device, index); err == nil {
		err = s.ns.Do(func() error {
			made, err := net.InterfaceByName(w.Device)
			if err != nil {
				return fmt.Errorf("device %s: %w", w.Device, err)
			}
			w.Index = made.Index
			if err := nft.Attach(s.base.Pass, nft.Tunnel{Mark: w.Mark, Device: w.Device}); err != nil {
				return err
			}
			return route.Attach(route.Tunnel{N: n, Addresses: p.Addresses, MTU: p.MTU, Rate: p.Rate})
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach a tunnel: %w", err), s.detachLocked(w))
	}
	s.ways[n] = w
	return w, nil
}

// Detach takes a way away: first the connections by it, both ends of which learn that, then what leads there, then the device. What still
// has its mark goes nowhere.
func (s *Space) Detach(w *Way) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := marks.Index(w.Mark); !ok || s.ways[n] != w {
		return fmt.Errorf("mark %#x is no tunnel's of this namespace", w.Mark)
	}
	return s.detachLocked(w)
}

func (s *Space) detachLocked(w *Way) error {
	n, _ := marks.Index(w.Mark) // it is one
	err := s.Strand(w.Index)
	err = errors.Join(err, s.ns.Do(func() error {
		return errors.Join(route.Detach(n), nft.Detach(nft.Tunnel{Mark: w.Mark, Device: w.Device}))
	}))
	if w.wire != nil {
		err = errors.Join(err, w.wire.Close())
	}
	s.ways[n] = nil
	if err != nil {
		return fmt.Errorf("detach a tunnel: %w", err)
	}
	return nil
}

// Strand ends the TCP connections that are bound to a device by its index, of an earlier process too, but for those from an address that the
// device has again. Index 0 is one that none is bound to.
func (s *Space) Strand(index int, again ...netip.Prefix) error {
	if index == 0 {
		return nil
	}
	var kept []netip.Addr
	for _, a := range again {
		kept = append(kept, a.Addr())
	}
	if _, err := owner.CutBound(s.ns, index, kept...); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil // of a kernel that cannot, connections end by themselves
}

// Cut ends the connection with these ends that goes by a way, or the connected socket of UDP. Whether there was one is told.
func (s *Space) Cut(w *Way, protocol uint8, local, remote netip.AddrPort) (ended bool, err error) {
	err = owner.Cut(s.ns, protocol, owner.Connection{Local: local, Remote: remote}, w.Index)
	if owner.Gone(err) {
		return false, nil
	}
	return err == nil, err
}

// Load tells which TCP connections go by a way.
func (s *Space) Load(w *Way) (owner.Load, error) { return owner.Bound(s.ns, w.Index) }

// Counts reads how many packets were dropped, by cause.
func (s *Space) Counts() (counts map[nft.Counter]uint64, err error) {
	err = s.ns.Do(func() error {
		counts, err = nft.Counts()
		return err
	})
	return counts, err
}

// Close ends the devices and lets go of the namespace, which stays closed. The last one in it takes it along.
func (s *Space) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for n, w := range s.ways {
		if w != nil && w.wire != nil {
			errs = append(errs, w.wire.Close())
		}
		s.ways[n] = nil
	}
	return errors.Join(append(errs, s.ns.Close())...)
}

// Reopen takes rules and routes away, of a namespace that lives on without egress policy.
func (s *Space) Reopen() error {
	return s.ns.Do(func() error { return errors.Join(route.Clear(), nft.Clear()) })
}
