package threat

import (
	"math"
	"net/netip"
	"sort"
)

// key is an address or the first address of a prefix, as 128 bits that sort. IPv4 has the 32 bits below v4Space, which
// no IPv6 address in use has: it is of multicast addresses with an undefined scope.
type key struct{ hi, lo uint64 }

const (
	v4Space = 0xffff_ffff
	v4Bits  = 32 // what comes before an IPv4 address in a key
)

// keyOf returns the key of an address; ok is false for IPv6 addresses that would be taken for IPv4.
func keyOf(a netip.Addr) (k key, ok bool) {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return key{hi: v4Space<<32 | uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])}, true
	}
	b := a.As16()
	for i := range 8 {
		k.hi, k.lo = k.hi<<8|uint64(b[i]), k.lo<<8|uint64(b[8+i])
	}
	return k, a.IsValid() && k.hi>>32 != v4Space
}

// covers tells whether the prefix of the given length that begins at p holds k.
func (p key) covers(bits uint8, k key) bool {
	if bits <= 64 {
		return (p.hi^k.hi)>>(64-bits) == 0 // a shift by 64 is 0
	}
	return p.hi == k.hi && (p.lo^k.lo)>>(128-bits) == 0
}

// entry is where an indicator comes from and how long it is believed: 16 bytes, for there are a million.
type entry struct {
	listed     uint32 // Unix seconds; 0: not known, the feed's age counts
	until      uint32 // Unix seconds; 0: no end but decay
	line       uint32 // in the feed's file; of STIX the number of the object
	feed       uint16 // index of Set.feeds
	confidence uint8  // in 255ths, when listed
	bits       uint8  // length of a prefix, as of a key
}

// item is a prefix that begins at the hi of the same index.
type item struct {
	entry
	lo     uint64
	parent uint32 // the item before that covers this one (or equals it); none: noParent
}

const noParent = math.MaxUint32

// stride is how many prefixes share one element of the index that a look-up searches first: as many as are in four
// lines of cache.
const stride = 32

// prefixes is a set of prefixes, sorted by first address and length. A look-up finds the last one at or before the
// address; what covers the address is that one or one of its parents. It needs 41 bytes a prefix, built once; the tries
// that were measured need more and are slower (decision 0036).
type prefixes struct {
	hi    []uint64
	items []item
	index []uint64 // every stride-th hi
	// first of IPv4: the first prefix at or behind each /16, and the number of all at the end: most questions are about IPv4.
	first []uint32
}

func (t *prefixes) add(p netip.Prefix, e entry) bool {
	k, ok := keyOf(p.Addr())
	if !ok || !p.IsValid() {
		return false
	}
	bits := p.Bits()
	switch {
	case p.Addr().Is4In6() && bits >= 96:
		bits += v4Bits - 96
	case p.Addr().Is4In6():
		return false
	case p.Addr().Is4():
		bits += v4Bits
	}
	e.bits = uint8(bits) // at most 128
	t.hi = append(t.hi, k.hi)
	t.items = append(t.items, item{entry: e, lo: k.lo})
	return true
}

// Len, Less and Swap sort by address, then length: what covers comes before what it covers.
func (t *prefixes) Len() int { return len(t.hi) }

func (t *prefixes) Less(i, j int) bool {
	a, b := &t.items[i], &t.items[j]
	switch {
	case t.hi[i] != t.hi[j]:
		return t.hi[i] < t.hi[j]
	case a.lo != b.lo:
		return a.lo < b.lo
	}
	switch {
	case a.bits != b.bits:
		return a.bits < b.bits
	case a.feed != b.feed:
		return a.feed < b.feed
	}
	return a.confidence > b.confidence // a feed's best word is kept, see build
}

func (t *prefixes) Swap(i, j int) {
	t.hi[i], t.hi[j] = t.hi[j], t.hi[i]
	t.items[i], t.items[j] = t.items[j], t.items[i]
}

// build makes what was added ready for look-ups.
func (t *prefixes) build() {
	if !sort.IsSorted(t) {
		sort.Sort(t)
	}
	t.unite()
	t.hi, t.items = trimmed(t.hi), trimmed(t.items)
	for i := range t.items {
		parent := uint32(noParent)
		if i > 0 {
			parent = t.chain(uint32(i-1), key{t.hi[i], t.items[i].lo})
		}
		t.items[i].parent = parent
		if i%stride == 0 {
			t.index = append(t.index, t.hi[i])
		}
	}
	t.index = trimmed(t.index)
	t.first = make([]uint32, 1<<16+1)
	at := 0
	for b := range 1 << 16 {
		for at < len(t.hi) && t.hi[at] < v4Space<<32|uint64(b)<<16 {
			at++
		}
		t.first[b] = uint32(at)
	}
	t.first[1<<16] = uint32(len(t.hi)) // no key sorts behind IPv4's
}

// unite drops what a feed says twice.
func (t *prefixes) unite() {
	n := 0
	for i := range t.items {
		a := &t.items[i]
		if n > 0 && t.hi[n-1] == t.hi[i] && t.items[n-1].lo == a.lo && t.items[n-1].bits == a.bits && t.items[n-1].feed == a.feed {
			continue
		}
		t.hi[n], t.items[n] = t.hi[i], *a
		n++
	}
	t.hi, t.items = t.hi[:n], t.items[:n]
}

// trimmed gives back the room an append made for more.
func trimmed[T any](s []T) []T {
	if cap(s)-len(s) < len(s)/16 {
		return s
	}
	return append(make([]T, 0, len(s)), s...)
}

// chain returns the first of i and its parents that covers k.
func (t *prefixes) chain(i uint32, k key) uint32 {
	for i != noParent {
		it := &t.items[i]
		if (key{t.hi[i], it.lo}).covers(it.bits, k) {
			return i
		}
		i = it.parent
	}
	return noParent
}

// lookup returns the longest prefix that covers k, or noParent. Shorter ones are its parents.
func (t *prefixes) lookup(k key) uint32 {
	lo, hi := t.block(k)
	for lo < hi { // the first that begins behind k
		if m := int(uint(lo+hi) / 2); t.hi[m] < k.hi || t.hi[m] == k.hi && t.items[m].lo <= k.lo {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == 0 {
		return noParent
	}
	return t.chain(uint32(lo-1), k)
}

// block returns the few prefixes among which is the first that begins behind k, or its end.
func (t *prefixes) block(k key) (lo, hi int) {
	if k.hi>>32 == v4Space {
		b := uint16(k.hi >> 16)
		return int(t.first[b]), int(t.first[int(b)+1])
	}
	end := len(t.index)
	for lo < end { // the first block that begins behind k
		if m := int(uint(lo+end) / 2); t.index[m] < k.hi || t.index[m] == k.hi && t.items[m*stride].lo <= k.lo {
			lo = m + 1
		} else {
			end = m
		}
	}
	return max(lo-1, 0) * stride, min(lo*stride, len(t.hi))
}

// prefix returns the i-th as people write it.
func (t *prefixes) prefix(i uint32) netip.Prefix {
	hi, it := t.hi[i], &t.items[i]
	if hi>>32 == v4Space {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(hi >> 24), byte(hi >> 16), byte(hi >> 8), byte(hi)}), int(it.bits)-v4Bits)
	}
	var b [16]byte
	for j := range 8 {
		b[j], b[8+j] = byte(hi>>(56-8*j)), byte(it.lo>>(56-8*j))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), int(it.bits))
}
