package gate

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Feeds is the node's set of listed addresses: one trie, whatever the number of containers. It lives as long as a process has
// its Gates open or a container's gate looks into it.
type Feeds struct {
	outer *ebpf.Map // [0]: the trie, or nothing
}

func feedsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "forefend_feeds", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: trie("forefend_feed", keySize, MaxFeed)}
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

// Load replaces what is listed, as a whole: a packet is compared with the old set or the new one. It returns how many prefixes
// there are; with none nothing is listed.
func (f *Feeds) Load(prefixes iter.Seq[netip.Prefix]) (int, error) {
	inner, err := ebpf.NewMap(trie("forefend_feed", keySize, MaxFeed))
	if err != nil {
		return 0, fmt.Errorf("make a map of threat feeds: %w", err)
	}
	defer inner.Close()
	n, err := fill(inner, prefixes)
	if err != nil {
		return 0, fmt.Errorf("fill a map of threat feeds after %d prefixes: %w", n, err)
	}
	index, fd := uint32(0), uint32(inner.FD())
	if n == 0 {
		err = remove(f.outer, &index)
	} else {
		err = f.outer.Put(&index, &fd)
	}
	if err != nil {
		return 0, fmt.Errorf("put %d prefixes of threat feeds in force: %w", n, err)
	}
	return n, nil
}

// batch is how many prefixes go into the kernel with one call.
const batch = 4096

func fill(m *ebpf.Map, prefixes iter.Seq[netip.Prefix]) (n int, err error) {
	keys, values := make([]lpmKey, 0, batch), make([]uint32, batch)
	for i := range values {
		values[i] = verdictBlock
	}
	for p := range prefixes {
		if keys = append(keys, lpmKeyOf(plain(p))); len(keys) < batch {
			continue
		}
		if err := fillBatch(m, keys, values); err != nil {
			return n, err
		}
		n, keys = n+len(keys), keys[:0]
	}
	return n + len(keys), fillBatch(m, keys, values)
}

func fillBatch[K lpmKey | setKey](m *ebpf.Map, keys []K, values []uint32) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, values[:len(keys)], nil)
	if errors.Is(err, ebpf.ErrNotSupported) { // before Linux 5.13
		for i := range keys {
			if err := m.Put(&keys[i], &values[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return err
}

// Change adds and drops single prefixes of what is listed.
func (f *Feeds) Change(add, drop []netip.Prefix) error {
	var id ebpf.MapID
	if err := f.outer.Lookup(uint32(0), &id); errors.Is(err, ebpf.ErrKeyNotExist) {
		_, err := f.Load(slices.Values(add))
		return err
	} else if err != nil {
		return fmt.Errorf("change the threat feeds: %w", err)
	}
	inner, err := ebpf.NewMapFromID(id)
	if err != nil {
		return fmt.Errorf("change the threat feeds: %w", err)
	}
	defer inner.Close()
	for _, p := range drop {
		k := lpmKeyOf(plain(p))
		if err := remove(inner, &k); err != nil {
			return fmt.Errorf("remove %s from the threat feeds: %w", p, err)
		}
	}
	for _, p := range add {
		k := lpmKeyOf(plain(p))
		if err := inner.Put(&k, uint32(verdictBlock)); err != nil {
			return fmt.Errorf("add %s to the threat feeds: %w", p, err)
		}
	}
	return nil
}

// Memory is how many bytes the set takes in the kernel, as that accounts for it.
func (f *Feeds) Memory() (float64, error) {
	var id ebpf.MapID
	if err := f.outer.Lookup(uint32(0), &id); err != nil {
		return 0, fmt.Errorf("memory of the threat feeds: %w", err)
	}
	inner, err := ebpf.NewMapFromID(id)
	if err != nil {
		return 0, fmt.Errorf("memory of the threat feeds: %w", err)
	}
	defer inner.Close()
	info, err := inner.Info()
	if err != nil {
		return 0, fmt.Errorf("memory of the threat feeds: %w", err)
	}
	bytes, _ := info.Memlock()
	return float64(bytes), nil
}

// InForce reports whether anything is listed.
func (f *Feeds) InForce() bool {
	var id ebpf.MapID
	return f.outer.Lookup(uint32(0), &id) == nil
}

// FeedsInForce reports, without making anything, whether the processes that meet in dir have loaded threat feeds.
func FeedsInForce(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, feedsFile))
	if err != nil {
		return false, err
	}
	defer f.Close()
	ids := readNumbers(f)
	if len(ids) != 1 {
		return false, nil
	}
	m := mapOf(ids[0], feedsSpec())
	if m == nil {
		return false, nil
	}
	defer m.Close()
	return (&Feeds{m}).InForce(), nil
}
