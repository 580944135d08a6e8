package tunnel

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
)

// How often agents are told that tunnels were found down, whatever these do: of one no more often than they would hear of it without being
// told, and of all together once in a while.
const (
	tellEach = valid
	tellAny  = time.Second
)

// downs are the tunnels that were found down.
type downs struct {
	mu     sync.Mutex           // taken after a space's
	at     map[string]time.Time // when each was found down the last time; guarded by mu
	untold map[string]bool      // those of which agents are to be told; guarded by mu
	told   map[string]time.Time // when agents were told of each, if that is less than tellEach ago; guarded by mu
	last   time.Time            // when they were told of any; guarded by mu
}

// found is how a tunnel was found. One that is down is tried again in a while, and agents are told.
func (s *Service) found(tunnel string, h Health, why string) {
	fell := s.pool.Report(tunnel, h, why)
	d := &s.downs
	d.mu.Lock()
	defer d.mu.Unlock()
	if h != Down {
		delete(d.at, tunnel)
		return
	}
	if d.at == nil {
		d.at, d.untold, d.told = make(map[string]time.Time), make(map[string]bool), make(map[string]time.Time)
	}
	d.at[tunnel] = s.now()
	if fell {
		d.untold[tunnel] = true
	}
}

// tryAgain has tunnels be tried again that were found down a while ago.
func (s *Service) tryAgain() {
	d := &s.downs
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, at := range d.at {
		if s.now().Sub(at) > retry {
			delete(d.at, name)
			s.pool.Report(name, Unknown, "")
		}
	}
}

// due are the tunnels of which agents are to be told now, and whom: of one that nobody has, or that is not down any more, nobody.
func (d *downs) due(now time.Time, stranded func(name string) []uint64) (names []string, namespaces []uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.last) < tellAny {
		return nil, nil
	}
	for name, at := range d.told {
		if now.Sub(at) >= tellEach {
			delete(d.told, name)
		}
	}
	for name := range d.untold {
		if _, early := d.told[name]; early {
			continue
		}
		delete(d.untold, name)
		if whom := stranded(name); len(whom) > 0 {
			d.told[name], d.last = now, now
			names, namespaces = append(names, name), append(namespaces, whom...)
		}
	}
	slices.Sort(names)
	slices.Sort(namespaces)
	return names, slices.Compact(namespaces)
}

// tellDown tells the agents of namespaces that have a tunnel which was found down. Nobody is told that one is up again: who was led elsewhere
// stays there, and who could not be led anywhere asks anew each time.
func (s *Service) tellDown(ctx context.Context) {
	names, namespaces := s.downs.due(s.now(), s.pool.stranded)
	if len(names) == 0 {
		return
	}
	var spaces []*space
	for _, id := range namespaces {
		if sp, err := s.find(id); err == nil { // else it was released just now
			spaces = append(spaces, sp)
		}
	}
	s.changes.in(spaces)
	log.G(ctx).WithField("tunnels", names).WithField("namespaces", len(spaces)).Info("forefend tunneld: agents are told of tunnels that are down")
}
