package gate

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Feeds is the node's set of listed addresses: one trie, whatever the number of containers. It lives as long as a process has
// its Gates open or a container's gate looks into it.
type Feeds struct {
	outer *ebpf.Map // [0]: the trie, or nothing
}

func feedsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "forefend_feeds", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: trie("forefend_feed", MaxFeed)}
}

// openFeeds opens the map whose number is in a file, and makes it where there is none. It has a file of its own: programs of
// all layouts look into the same.
func openFeeds(file string) (*ebpf.Map, error) {
	f, err := lockNumbers(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if ids := readNumbers(f); len(ids) == 1 {
		if m := mapOf(ids[0], feedsSpec()); m != nil {
			return m, nil
		}
	}
	m, err := ebpf.NewMap(feedsSpec())
	if err != nil {
		return nil, fmt.Errorf("make the map of threat feeds: %w", err)
	}
	id, err := mapNumber(m)
	if err == nil {
		err = writeNumbers(f, []uint32{id})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note the map of threat feeds in %s: %w", file, err), m.Close())
	}
	return m, nil
}

// Load replaces what is listed, as a whole: a packet is compared with the old set or the new one. With no prefixes nothing is listed.
func (f *Feeds) Load(prefixes []netip.Prefix) error {
	index := uint32(0)
	if len(prefixes) == 0 {
		if err := f.outer.Delete(&index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty the threat feeds: %w", err)
		}
		return nil
	}
	if len(prefixes) > MaxFeed {
		return fmt.Errorf("%d prefixes of threat feeds, the most is %d", len(prefixes), MaxFeed)
	}
	inner, err := ebpf.NewMap(trie("forefend_feed", MaxFeed))
	if err != nil {
		return fmt.Errorf("make a map of threat feeds: %w", err)
	}
	defer inner.Close()
	if err := fill(inner, prefixes); err != nil {
		return fmt.Errorf("fill a map of %d prefixes: %w", len(prefixes), err)
	}
	fd := uint32(inner.FD())
	if err := f.outer.Put(&index, &fd); err != nil {
		return fmt.Errorf("put the threat feeds in force: %w", err)
	}
	return nil
}

// batch is how many prefixes go into the kernel with one call.
const batch = 4096

func fill(m *ebpf.Map, prefixes []netip.Prefix) error {
	keys, values := make([]lpmKey, 0, batch), make([]uint32, batch)
	for i := range values {
		values[i] = verdictBlock
	}
	for len(prefixes) > 0 {
		n := min(batch, len(prefixes))
		keys = keys[:0]
		for _, p := range prefixes[:n] {
			keys = append(keys, lpmKeyOf(plain(p)))
		}
		prefixes = prefixes[n:]
		_, err := m.BatchUpdate(keys, values[:n], nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			err = fillEach(m, keys)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fillEach is for kernels before 5.13.
func fillEach(m *ebpf.Map, keys []lpmKey) error {
	for i := range keys {
		if err := m.Put(&keys[i], uint32(verdictBlock)); err != nil {
			return err
		}
	}
	return nil
}

// Change adds and removes single prefixes of what is listed.
func (f *Feeds) Change(add, remove []netip.Prefix) error {
	var id ebpf.MapID
	if err := f.outer.Lookup(uint32(0), &id); errors.Is(err, ebpf.ErrKeyNotExist) {
		return f.Load(add)
	} else if err != nil {
		return fmt.Errorf("change the threat feeds: %w", err)
	}
	inner, err := ebpf.NewMapFromID(id)
	if err != nil {
		return fmt.Errorf("change the threat feeds: %w", err)
	}
	defer inner.Close()
	for _, p := range remove {
		if k := lpmKeyOf(plain(p)); true {
			if err := inner.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove %s from the threat feeds: %w", p, err)
			}
		}
	}
	for _, p := range add {
		if k := lpmKeyOf(plain(p)); true {
			if err := inner.Put(&k, uint32(verdictBlock)); err != nil {
				return fmt.Errorf("add %s to the threat feeds: %w", p, err)
			}
		}
	}
	return nil
}

// InForce reports whether anything is listed.
func (f *Feeds) InForce() bool {
	var id ebpf.MapID
	return f.outer.Lookup(uint32(0), &id) == nil
}
