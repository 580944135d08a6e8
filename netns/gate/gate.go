package gate

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Gate is the gate of one container.
type Gate struct {
	gates  *Gates
	dir    *os.File // of the cgroup
	id     uint64   // of the cgroup
	pid    int      // 0: not known
	report func(Event)

	mu      sync.Mutex
	rules   Rules  // guarded by mu
	set     uint64 // version of the set in force, 0: none; guarded by mu
	version uint64 // of the set made last; guarded by mu
	peers   bool   // correspondents are noted; guarded by mu
	passing bool   // the packet programs are attached; guarded by mu
	closed  bool   // guarded by mu

	framesErr error // why packet sockets are not restricted; guarded by mu
}

// ErrClosed says that a gate was used after Close.
var ErrClosed = errors.New("the gate is closed")

// Rules returns what was set last.
func (g *Gate) Rules() Rules {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rules
}

// Set puts r in force, whole, for the next packet, and reads back that it is. On an error what was in force before is.
func (g *Gate) Set(r Rules) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	flags := r.flags()
	set, err := g.load(r)
	if err != nil {
		return err
	}
	was, err := g.read()
	if err == nil && flags&replies != 0 && !g.peers {
		err = g.notePeers()
	}
	if err == nil {
		is := was
		is.Flags, is.Set = flags, set
		err = g.write(is)
	}
	if err == nil && flags != 0 {
		err = g.guard()
	}
	if err == nil && flags&restricting != 0 {
		err = g.restrictFrames(true)
	}
	if err == nil {
		err = g.verify(flags, set)
	}
	if err != nil {
		err = errors.Join(err, g.write(state{Flags: was.Flags, Accepted: was.Accepted, ID: g.id, Set: was.Set}), g.drop(set))
		return fmt.Errorf("gate of cgroup %d: %w", g.id, err)
	}
	old := g.set
	g.rules, g.set = r, set
	err = g.drop(old)
	if flags&replies == 0 && g.peers {
		err = errors.Join(err, remove(g.gates.maps.peers, &g.id))
		g.peers = false
	}
	if flags&restricting == 0 {
		err = errors.Join(err, g.restrictFrames(false))
	}
	if flags == 0 {
		err = errors.Join(err, g.unguard())
	}
	if err != nil {
		return fmt.Errorf("gate of cgroup %d: what was in force before is not gone: %w", g.id, err)
	}
	return nil
}

// load makes the set of r and returns its key, 0 if there is none.
func (g *Gate) load(r Rules) (uint64, error) {
	entries, err := r.set()
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	inner, err := ebpf.NewMap(trie("forefend_set", maxSet))
	if err != nil {
		return 0, fmt.Errorf("make a set of %d prefixes: %w", len(entries), err)
	}
	defer inner.Close()
	for _, e := range entries {
		if err := inner.Put(&e.key, &e.verdict); err != nil {
			return 0, fmt.Errorf("fill a set of %d prefixes: %w", len(entries), err)
		}
	}
	g.version++
	key, fd := setKey{g.id, g.version}, uint32(inner.FD())
	if err := g.gates.maps.sets.Put(&key, &fd); err != nil {
		return 0, fmt.Errorf("give out a set: %w", err)
	}
	return g.version, nil
}

func (g *Gate) drop(set uint64) error {
	if set == 0 {
		return nil
	}
	return remove(g.gates.maps.sets, &setKey{g.id, set})
}

// remove takes an entry out of a map; one that is not there is gone.
func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (g *Gate) notePeers() error {
	inner, err := ebpf.NewMap(correspondents())
	if err != nil {
		return fmt.Errorf("make the map of correspondents: %w", err)
	}
	defer inner.Close()
	fd := uint32(inner.FD())
	if err := g.gates.maps.peers.Put(&g.id, &fd); err != nil {
		return fmt.Errorf("give out the map of correspondents: %w", err)
	}
	g.peers = true
	return nil
}

// guard attaches the packet programs. The one for what is sent comes first.
func (g *Gate) guard() error {
	if g.passing {
		return nil
	}
	if err := g.attach(g.gates.egress, ebpf.AttachCGroupInetEgress); err != nil {
		return err
	}
	if err := g.attach(g.gates.ingress, ebpf.AttachCGroupInetIngress); err != nil {
		return errors.Join(err, g.detach(g.gates.egress, ebpf.AttachCGroupInetEgress))
	}
	g.passing = true
	return nil
}

// unguard takes the packet programs off again: a container without rules pays nothing for its packets.
func (g *Gate) unguard() error {
	if !g.passing {
		return nil
	}
	g.passing = false
	return errors.Join(g.detach(g.gates.ingress, ebpf.AttachCGroupInetIngress), g.detach(g.gates.egress, ebpf.AttachCGroupInetEgress))
}

func (g *Gate) read() (s state, err error) {
	if err := g.gates.maps.state.Lookup(&g.id, &s); err != nil {
		return s, fmt.Errorf("read the state: %w", err)
	}
	return s, nil
}

func (g *Gate) write(s state) error {
	if err := g.gates.maps.state.Update(&g.id, &s, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

// verify reads back what the programs will see.
func (g *Gate) verify(flags uint32, set uint64) error {
	s, err := g.read()
	if err == nil && (s.Flags != flags || s.Set != set || s.ID != g.id) {
		err = fmt.Errorf("read back flags %#x and set %d instead of %#x and %d", s.Flags, s.Set, flags, set)
	}
	return err
}

// Lost returns how many events were not reported because there were too many.
func (g *Gate) Lost() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0
	}
	s, _ := g.read()
	return s.Lost
}

// Close forgets the gate, and its sets with it once the cgroup is gone; where it is still there, all that was set stays in force.
func (g *Gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.gates.mu.Lock()
	delete(g.gates.open, g.id)
	g.gates.mu.Unlock()
	err := g.dir.Close()
	if g.gone() {
		err = errors.Join(err, g.drop(g.set), remove(g.gates.maps.peers, &g.id), remove(g.gates.maps.rings, &g.id),
			remove(g.gates.maps.framed, &g.id))
	}
	return err
}

// gone tells whether the cgroup is no more, or another one stands in its place.
func (g *Gate) gone() bool {
	var st unix.Stat_t
	err := unix.Stat(g.dir.Name(), &st)
	return errors.Is(err, unix.ENOENT) || err == nil && st.Ino != g.id
}
