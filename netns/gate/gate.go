package gate

import (
	"errors"
	"fmt"
	"os"
	"slices"
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
	rules   Rules   // guarded by mu
	set     uint64  // version of the set in force, 0: none; guarded by mu
	entries []entry // of that set; guarded by mu
	version uint64  // of the set made last; guarded by mu
	peers   bool    // there is a map of correspondents; guarded by mu
	passing bool    // the packet programs are attached; guarded by mu
	closed  bool    // guarded by mu

	framesErr error // why packet sockets are not restricted; guarded by mu

	announced chan struct{} // closed once its events come to this process; nil: nobody is told of them
	deaf      error         // why they do not; readable once announced is closed
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
	entries, err := r.set()
	if err != nil {
		return err
	}
	set, err := g.prepare(entries, flags)
	if err != nil {
		return err
	}
	was, err := g.read()
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
		err = errors.Join(err, g.write(state{Flags: was.Flags, Accepted: was.Accepted, ID: g.id, Set: was.Set}))
		if set != g.set {
			err = errors.Join(err, g.drop(set, entries))
		}
		return fmt.Errorf("gate of cgroup %d: %w", g.id, err)
	}
	if old, of := g.set, g.entries; set != old {
		g.gates.later(func() error { return g.drop(old, of) })
	}
	g.rules, g.set, g.entries = r, set, entries
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

// prepare makes what the rules need that is not there yet, and returns the version of the set.
func (g *Gate) prepare(entries []entry, flags uint32) (set uint64, err error) {
	if flags&replies != 0 && !g.peers {
		if err := g.notePeers(); err != nil {
			return 0, err
		}
	}
	if slices.Equal(entries, g.entries) {
		return g.set, nil
	}
	return g.load(entries)
}

// load makes a set and returns its version, 0 if there is nothing in it. Nothing looks at it yet.
func (g *Gate) load(entries []entry) (uint64, error) {
	if len(entries) == 0 {
		return 0, nil
	}
	g.version++
	keys := g.keys(g.version, entries)
	verdicts := make([]uint32, len(keys))
	for i := range verdicts {
		if verdicts[i] = verdictNone; i >= len(bottom) {
			verdicts[i] = entries[i-len(bottom)].verdict // also over the bottom, where all of a family is allowed or blocked
		}
	}
	if err := fillBatch(g.gates.maps.sets, keys, verdicts); err != nil {
		return 0, errors.Join(fmt.Errorf("fill a set of %d prefixes: %w", len(entries), err), g.drop(g.version, entries))
	}
	return g.version, nil
}

// bottom are the prefixes that hold all of a family.
var bottom = []lpmKey{{Bits: 32, Family: 4}, {Bits: 32, Family: 6}}

// keys are those of a set: first the bottom, without which a set is none.
func (g *Gate) keys(set uint64, entries []entry) []setKey {
	keys := make([]setKey, 0, len(bottom)+len(entries))
	for _, k := range bottom {
		keys = append(keys, k.of(g.id, set))
	}
	for _, e := range entries {
		keys = append(keys, e.key.of(g.id, set))
	}
	return keys
}

// drop removes a set. A packet that still asks for it finds its verdict, or none at all.
func (g *Gate) drop(set uint64, entries []entry) error {
	if set == 0 {
		return nil
	}
	var errs []error
	for _, k := range g.keys(set, entries) {
		errs = append(errs, remove(g.gates.maps.sets, &k))
	}
	return errors.Join(errs...)
}

// remove takes an entry out of a map; one that is not there is gone.
func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// notePeers has correspondents noted from now on, for good: making room for them costs a millisecond.
func (g *Gate) notePeers() error {
	inner, err := ebpf.NewMap(correspondents())
	if err != nil {
		return fmt.Errorf("make the map of correspondents: %w", err)
	}
	if err := g.gates.give(g.gates.maps.peers, g.id, inner); err != nil {
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

// Close forgets the gate, and its sets with it once the cgroup is gone; where it is still there, all that was set stays in force. The
// error says too if events were not reported.
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
	if g.announced != nil {
		<-g.announced
		err = errors.Join(err, g.deaf)
	}
	if !g.gone() {
		return err
	}
	set, entries := g.set, g.entries
	g.gates.later(func() error { return g.drop(set, entries) })
	for _, m := range []*ebpf.Map{g.gates.maps.peers, g.gates.maps.rings, g.gates.maps.framed} {
		g.gates.later(func() error { return remove(m, &g.id) })
	}
	return err
}

// gone tells whether the cgroup is no more, or another one stands in its place.
func (g *Gate) gone() bool {
	var st unix.Stat_t
	err := unix.Stat(g.dir.Name(), &st)
	return errors.Is(err, unix.ENOENT) || err == nil && st.Ino != g.id
}
