package gate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// layout is the version of programs and structures. Raise it with every change of either: processes of two versions then load
// their own. TestLayout knows what the present one looks like.
const layout = 5

// loaded is what is loaded once for all containers of the node: a container costs three attachments, not a verification.
type loaded struct {
	maps                             maps
	egress, ingress, sockops, frames *ebpf.Program
}

// The files with the numbers of what is loaded, one a line. BPF objects live as long as a process has them open, a program
// refers to them or a cgroup has them attached; no file system of BPF objects is needed. A number that is stale leads to
// nothing, or to an object of another name.
const (
	numbersFile = "gate-%d"
	feedsFile   = "feeds"
)

// parts lists what is loaded and where it goes, in the order of the numbers.
func (l *loaded) parts() (ms []mapPart, ps []programPart) {
	number := &btf.Int{Name: "u32", Size: 4}
	m := &l.maps
	ms = []mapPart{
		{&m.state, &ebpf.MapSpec{Name: "forefend_state", Type: ebpf.CGroupStorage, KeySize: 8, ValueSize: stateSize}},
		{&m.sets, trie("forefend_sets", setKeySize, maxSets)},
		{&m.peers, outer("forefend_peers", correspondents())},
		{&m.rings, outer("forefend_rings", ringOf("forefend_ring"))},
		{&m.accepted, &ebpf.MapSpec{Name: "forefend_accept", Type: ebpf.SkStorage, KeySize: 4, ValueSize: 4,
			Flags: unix.BPF_F_NO_PREALLOC, Key: number, Value: number}},
		{&m.seen, &ebpf.MapSpec{Name: "forefend_seen", Type: ebpf.Array, KeySize: 4, ValueSize: seenSize, MaxEntries: seenSlots}},
		{&m.framed, &ebpf.MapSpec{Name: "forefend_framed", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: maxGates, Flags: unix.BPF_F_NO_PREALLOC}},
	}
	ps = []programPart{
		{&l.egress, "forefend_egress", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress, egress},
		{&l.ingress, "forefend_ingres", ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress, ingress},
		{&l.sockops, "forefend_accept", ebpf.SockOps, ebpf.AttachCGroupSockOps, sockops},
		{&l.frames, "forefend_frames", ebpf.SchedCLS, ebpf.AttachNone, frames},
	}
	return ms, ps
}

type mapPart struct {
	to   **ebpf.Map
	spec *ebpf.MapSpec
}

type programPart struct {
	to     **ebpf.Program
	name   string
	kind   ebpf.ProgramType
	attach ebpf.AttachType
	code   func(handles) asm.Instructions
}

// outer has a map for each cgroup.
func outer(name string, inner *ebpf.MapSpec) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: name, Type: ebpf.HashOfMaps, KeySize: 8, ValueSize: 4, MaxEntries: maxGates, Flags: unix.BPF_F_NO_PREALLOC, InnerMap: inner}
}

func trie(name string, key, most uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: name, Type: ebpf.LPMTrie, KeySize: key, ValueSize: 4, MaxEntries: most, Flags: unix.BPF_F_NO_PREALLOC}
}

func correspondents() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "forefend_peer", Type: ebpf.LRUHash, KeySize: 24, ValueSize: 8, MaxEntries: maxPeers}
}

func ringOf(name string) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: name, Type: ebpf.RingBuf, MaxEntries: uint32(max(ringSize, os.Getpagesize()))}
}

// openLoaded opens what the numbers in dir say, and loads anew what is not there.
func openLoaded(dir string) (loaded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return loaded{}, fmt.Errorf("directory of the gates' numbers: %w", err)
	}
	f, err := lockNumbers(filepath.Join(dir, fmt.Sprintf(numbersFile, layout)))
	if err != nil {
		return loaded{}, err
	}
	defer f.Close()
	var l loaded
	if l.find(readNumbers(f)) {
		return l, nil
	}
	l.free()
	l = loaded{}
	if err := l.load(filepath.Join(dir, feedsFile)); err != nil {
		l.free()
		return loaded{}, err
	}
	ids, err := l.numbers()
	if err == nil {
		err = writeNumbers(f, ids)
	}
	if err != nil {
		l.free()
		return loaded{}, fmt.Errorf("note what is loaded in %s: %w", f.Name(), err)
	}
	return l, nil
}

// load makes everything. What could be made is there after an error, too.
func (l *loaded) load(feeds string) (err error) {
	if l.maps.feeds, err = openFeeds(feeds); err != nil {
		return err
	}
	ms, ps := l.parts()
	for _, m := range ms {
		if *m.to, err = ebpf.NewMap(m.spec); err != nil {
			return fmt.Errorf("make the map %s: %w", m.spec.Name, err)
		}
	}
	for _, p := range ps {
		spec := &ebpf.ProgramSpec{Name: p.name, Type: p.kind, AttachType: p.attach, License: license, Instructions: p.code(l.maps.handles())}
		if *p.to, err = ebpf.NewProgram(spec); err != nil {
			return fmt.Errorf("load the program %s: %w", p.name, err)
		}
	}
	return nil
}

// find opens what the numbers lead to; false when that is not all, and what it should be.
func (l *loaded) find(ids []uint32) bool {
	ms, ps := l.parts()
	if len(ids) != len(ms)+len(ps)+1 {
		return false
	}
	if l.maps.feeds = mapOf(ids[0], feedsSpec()); l.maps.feeds == nil {
		return false
	}
	ids = ids[1:]
	for i, m := range ms {
		if *m.to = mapOf(ids[i], m.spec); *m.to == nil {
			return false
		}
	}
	ids = ids[len(ms):]
	for i, p := range ps {
		if *p.to = programOf(ids[i], p); *p.to == nil {
			return false
		}
	}
	return true
}

// mapOf opens the map with a number if it is what spec says.
func mapOf(id uint32, spec *ebpf.MapSpec) *ebpf.Map {
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return nil
	}
	info, err := m.Info()
	if err != nil || info.Name != spec.Name || info.Type != spec.Type || info.KeySize != spec.KeySize || info.ValueSize != spec.ValueSize ||
		info.MaxEntries != spec.MaxEntries {
		_ = m.Close()
		return nil
	}
	return m
}

func programOf(id uint32, want programPart) *ebpf.Program {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return nil
	}
	info, err := p.Info()
	if err != nil || info.Name != want.name || info.Type != want.kind {
		_ = p.Close()
		return nil
	}
	return p
}

// numbers are those of everything, in the order of find.
func (l *loaded) numbers() ([]uint32, error) {
	var ids []uint32
	ms, ps := l.parts()
	for _, m := range append([]mapPart{{&l.maps.feeds, nil}}, ms...) {
		id, err := mapNumber(*m.to)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	for _, p := range ps {
		info, err := (*p.to).Info()
		if err != nil {
			return nil, err
		}
		id, ok := info.ID()
		if !ok {
			return nil, fmt.Errorf("programs have no numbers: %w", errors.ErrUnsupported)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

func mapNumber(m *ebpf.Map) (uint32, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, fmt.Errorf("maps have no numbers: %w", errors.ErrUnsupported)
	}
	return uint32(id), nil
}

func (l *loaded) free() {
	ms, ps := l.parts()
	for _, m := range ms {
		_ = (*m.to).Close()
	}
	for _, p := range ps {
		_ = (*p.to).Close()
	}
	_ = l.maps.feeds.Close()
}

// lockNumbers opens a file of numbers; whoever else does waits until it is closed.
func lockNumbers(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("numbers of what is loaded: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return f, nil
}

// readNumbers reads a file of numbers. A damaged one has none.
func readNumbers(f *os.File) []uint32 {
	b := make([]byte, 512)
	n, _ := f.ReadAt(b, 0)
	return parseNumbers(string(b[:n]))
}

func parseNumbers(s string) []uint32 {
	var ids []uint32
	for line := range strings.Lines(s) {
		id, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 32)
		if err != nil || id == 0 || !strings.HasSuffix(line, "\n") {
			return nil
		}
		ids = append(ids, uint32(id))
	}
	return ids
}

func writeNumbers(f *os.File, ids []uint32) error {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintln(&b, id)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(b.String()), 0)
	return err
}
