package gate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// FeedMode is what becomes of destinations that a threat feed lists.
type FeedMode uint8

// The modes.
const (
	FeedsOff   FeedMode = iota
	FeedsWatch          // reported
	FeedsBlock          // refused, unless Rules.Allow holds them
)

// Rules are all that holds for one container. The zero value lets everything pass. Loopback always passes, and so do answers: packets of
// connections that the container accepted, and datagrams to who sent it one within three minutes; only Off stops these.
type Rules struct {
	Off    bool           // nothing passes, in either direction
	Closed bool           // nothing may be begun but to Allow
	Allow  []netip.Prefix // exceptions from Closed and from feeds
	Block  []netip.Prefix // nothing may be begun to these, whatever Allow says
	Feeds  FeedMode
}

func (r Rules) flags() uint32 {
	var f uint32
	if r.Off {
		f |= flagOff
	}
	if r.Closed {
		f |= flagClosed
	}
	if len(r.Allow)+len(r.Block) > 0 {
		f |= flagSet
	}
	switch r.Feeds {
	case FeedsWatch:
		f |= flagFeedsWatch
	case FeedsBlock:
		f |= flagFeedsBlock
	}
	return f
}

// entry is a prefix of a container's set.
type entry struct {
	key     lpmKey
	verdict uint32
}

// set makes one trie of what is allowed and blocked. In it the longest prefix decides; what is blocked shall hold against every
// exception inside it, so exceptions inside a blocked prefix are left out.
func (r Rules) set() ([]entry, error) {
	if n := len(r.Allow) + len(r.Block); n > maxSet {
		return nil, fmt.Errorf("%d prefixes allowed and blocked, the most is %d", n, maxSet)
	}
	var all []entry
	blocked := tidy(r.Block)
	for _, p := range blocked {
		all = append(all, entry{lpmKeyOf(p), verdictBlock})
	}
	for _, p := range tidy(r.Allow) {
		if !holds(blocked, p) {
			all = append(all, entry{lpmKeyOf(p), verdictAllow})
		}
	}
	return all, nil
}

// tidy masks and sorts prefixes and leaves out what another one holds.
func tidy(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	for i, p := range list {
		list[i] = plain(p)
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	out := list[:0]
	for _, p := range list {
		if !p.IsValid() || len(out) > 0 && inside(out[len(out)-1], p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// plain is p with its host bits zero, IPv4 as IPv4.
func plain(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(a.Unmap(), p.Bits()-96).Masked()
	}
	return netip.PrefixFrom(p.Addr().WithZone(""), p.Bits()).Masked()
}

func inside(outer, p netip.Prefix) bool { return outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) }

// holds tells whether one of the tidy prefixes holds p: the last that does not begin behind it.
func holds(tidied []netip.Prefix, p netip.Prefix) bool {
	i, _ := slices.BinarySearchFunc(tidied, p, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return i < len(tidied) && tidied[i] == p || i > 0 && inside(tidied[i-1], p)
}
