package names

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds of a Map: pairs of a name and an address in all, and names of one address.
const (
	maxPairs = 8192
	maxNames = 128
)

// How long an answer counts. Applications keep addresses for longer than they are told to, and a server's connections for longer
// still: a pair counts for leastLife, and for usedLife from when it was used last.
const (
	leastLife = 10 * time.Minute
	mostLife  = 24 * time.Hour
	usedLife  = time.Hour
)

// Map remembers for which names an address was the answer. The zero value is empty. It reads no clock.
type Map struct {
	mu    sync.Mutex
	addrs map[netip.Addr]map[string]pair // guarded by mu
	pairs int                            // in addrs; guarded by mu
	said  uint64                         // how often something was learned; guarded by mu
}

type pair struct {
	until  time.Time
	said   uint64 // when it was the last time, by the map's count
	listed bool   // a listed resolver said so
}

// Learn notes that a name's addresses are these, for so long. listed says that a resolver was asked that the site trusts.
func (m *Map) Learn(host string, a Answer, listed bool, now time.Time) {
	if host == "" {
		return
	}
	said := now.Add(min(max(a.TTL, leastLife), mostLife))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs == nil {
		m.addrs = make(map[netip.Addr]map[string]pair)
	}
	for _, addr := range a.Addresses {
		names := m.addrs[addr]
		old, known := names[host]
		if !known {
			if m.pairs >= maxPairs {
				m.thinLocked(now)
				names = m.addrs[addr] // it may have lost its last
			}
			if names == nil {
				names = make(map[string]pair)
				m.addrs[addr] = names
			}
			if len(names) >= maxNames {
				m.forgetLocked(addr, first(names))
			}
			m.pairs++
		}
		until := said
		if old.until.After(until) {
			until = old.until
		}
		m.said++
		names[host] = pair{until, m.said, listed || old.listed && now.Before(old.until)}
	}
}

// Said tells whether an address was the answer for a name, and whether a listed resolver said so. It counts as used then.
func (m *Map) Said(addr netip.Addr, host string, now time.Time) (said, listed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.addrs[addr][host]
	if !ok || !now.Before(p.until) {
		return false, false
	}
	if used := now.Add(usedLife); used.After(p.until) {
		p.until = used
		m.addrs[addr][host] = p
	}
	return true, p.listed
}

// Hosts are the names for which an address was the answer, in their order, at most so many: the latest. Where listed resolvers said some of them,
// only those are: what others say of the address is nothing new.
func (m *Map) Hosts(addr netip.Addr, most int, now time.Time) (hosts []string, listed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := m.addrs[addr]
	for name, p := range names {
		switch {
		case !now.Before(p.until), listed && !p.listed:
			continue
		case p.listed && !listed:
			hosts, listed = nil, true
		}
		hosts = append(hosts, name)
	}
	if len(hosts) > most {
		slices.SortFunc(hosts, func(a, b string) int { return cmp.Compare(names[b].said, names[a].said) })
		hosts = hosts[:most]
	}
	slices.Sort(hosts)
	return hosts, listed
}

// Len is how many pairs there are, those that do not count any more included.
func (m *Map) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pairs
}

// thinLocked makes room: it forgets what does not count any more, and if that is little, what is not of a listed resolver, and
// in the end any half.
func (m *Map) thinLocked(now time.Time) {
	half := false
	for _, keep := range []func(pair) bool{
		func(p pair) bool { return now.Before(p.until) },
		func(p pair) bool { return p.listed },
		func(pair) bool { half = !half; return half },
	} {
		for addr, names := range m.addrs {
			for host, p := range names {
				if !keep(p) {
					m.forgetLocked(addr, host)
				}
			}
		}
		if m.pairs <= maxPairs/4*3 {
			return
		}
	}
}

func (m *Map) forgetLocked(addr netip.Addr, host string) {
	names := m.addrs[addr]
	delete(names, host)
	m.pairs--
	if len(names) == 0 {
		delete(m.addrs, addr)
	}
}

// first is the name that is forgotten first: of those that no listed resolver said, if there are any, the one that ends first.
func first(names map[string]pair) (host string) {
	var least pair
	for name, p := range names {
		if host == "" || least.listed && !p.listed || least.listed == p.listed && p.until.Before(least.until) {
			host, least = name, p
		}
	}
	return host
}
