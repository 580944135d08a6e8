package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// addresses gives out numbers, each of which is an address of each pool. Those given back last are given out last.
type addresses struct {
	four, six netip.Prefix
	size      uint32 // numbers that there are
	next      uint32
	used      map[uint32]bool
}

// Numbers that no peer has: the network's, and the gateway's own. The last one is IPv4's broadcast.
const (
	ownNumber   = 1
	firstNumber = 2
)

// mostNumbers bounds what a pool is used of.
const mostNumbers = 1 << 16

func newAddresses(four, six netip.Prefix) (*addresses, error) {
	a := &addresses{four: four.Masked(), six: six.Masked(), size: mostNumbers, next: firstNumber, used: make(map[uint32]bool)}
	switch {
	case !four.IsValid() && !six.IsValid():
		return nil, fmt.Errorf("a gateway needs a pool of addresses")
	case six.IsValid() && (!six.Addr().Is6() || six.Bits() > 96):
		return nil, fmt.Errorf("pool %s: of IPv6 a /96 or more is needed", six)
	case four.IsValid() && (!four.Addr().Is4() || four.Bits() > 30):
		return nil, fmt.Errorf("pool %s: of IPv4 a /30 or more is needed", four)
	}
	if four.IsValid() && four.Bits() > 16 {
		a.size = 1 << (32 - four.Bits())
	}
	return a, nil
}

// take gives out a number; ok is false when there is none.
func (a *addresses) take() (n uint32, ok bool) {
	for range a.size {
		n = a.next
		if a.next++; a.next >= a.size-1 {
			a.next = firstNumber
		}
		if n < a.size-1 && !a.used[n] {
			a.used[n] = true
			return n, true
		}
	}
	return 0, false
}

// restore gives out a certain number; ok is false when it is none, or taken.
func (a *addresses) restore(n uint32) (ok bool) {
	if n < firstNumber || n >= a.size-1 || a.used[n] {
		return false
	}
	a.used[n] = true
	a.next = max(a.next, n+1)
	return true
}

// left is how many numbers are not given out.
func (a *addresses) left() int { return int(a.size) - 1 - firstNumber - len(a.used) }

func (a *addresses) free(n uint32) { delete(a.used, n) }

// tail is the end that the addresses of a number have in common.
func (a *addresses) tail(n uint32) (t [4]byte) {
	if a.four.IsValid() {
		base := a.four.Addr().As4()
		n += binary.BigEndian.Uint32(base[:])
	}
	binary.BigEndian.PutUint32(t[:], n)
	return t
}

// of are the addresses of a number, as those of hosts.
func (a *addresses) of(n uint32) (all []netip.Prefix) {
	tail := a.tail(n)
	if a.four.IsValid() {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4(tail), 32))
	}
	if a.six.IsValid() {
		long := a.six.Addr().As16()
		copy(long[12:], tail[:])
		all = append(all, netip.PrefixFrom(netip.AddrFrom16(long), 128))
	}
	return all
}
