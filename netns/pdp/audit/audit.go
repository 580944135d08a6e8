// Package audit counts what was decided by classes: the profile, the rules that applied and their version, and whose request it was. Requests of one class
// differ in nothing that policy has a word for, so a few classes tell of millions of decisions.
//
// A Book is bounded and may be used from any goroutine. It reads no clock: callers say what time it is.
package audit

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Bounds of a Book. Each node has classes of its own, so that one which makes up workloads drops only its own.
const (
	MaxClasses = 1024 // of one node
	MaxNodes   = 1024
)

// Book is the classes that were seen.
type Book struct {
	mu      sync.Mutex
	nodes   map[string]map[string]*flow.Class // by node and what makes them alike; guarded by mu
	dropped uint64                            // decisions of classes that are not kept any more; guarded by mu
	key     []byte                            // room for a key; guarded by mu
}

// New makes an empty Book.
func New() *Book { return &Book{nodes: make(map[string]map[string]*flow.Class)} }

// Note counts a decision about a request of a workload, of a node's.
func (b *Book) Note(node, workload string, d *flow.Decision, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	classes := b.nodes[node]
	if classes == nil {
		if len(b.nodes) >= MaxNodes {
			b.dropNodeLocked()
		}
		classes = make(map[string]*flow.Class)
		b.nodes[node] = classes
	}
	b.key = appendKey(b.key[:0], workload, d)
	c := classes[string(b.key)]
	if c == nil {
		if len(classes) >= MaxClasses {
			b.dropClassesLocked(classes)
		}
		c = &flow.Class{Node: strings.Clone(node), Workload: strings.Clone(workload), Profile: d.Profile, Rules: rulesOf(d), RuleVersion: d.RuleVersion, First: now}
		classes[string(b.key)] = c
	}
	c.Count++
	c.Last, c.Reason = now, d.Reason
}

// Classes lists what was seen, by node, workload and number, and how many decisions there were of classes that are not kept any more.
func (b *Book) Classes() (list []flow.Class, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, classes := range b.nodes {
		for _, c := range classes {
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(x, y flow.Class) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Workload, y.Workload), cmp.Compare(y.Count, x.Count), slices.Compare(x.Rules, y.Rules), cmp.Compare(x.RuleVersion, y.RuleVersion))
	})
	return list, b.dropped
}

// dropNodeLocked forgets the node of which nothing was heard for longest.
func (b *Book) dropNodeLocked() {
	var oldest string
	var since time.Time
	for node, classes := range b.nodes {
		last := lastOf(slices.Collect(maps.Values(classes)))
		if since.IsZero() || last.Before(since) {
			oldest, since = node, last
		}
	}
	for _, c := range b.nodes[oldest] {
		b.dropped += c.Count
	}
	delete(b.nodes, oldest)
}

func lastOf(classes []*flow.Class) time.Time {
	return slices.MaxFunc(classes, func(x, y *flow.Class) int { return x.Last.Compare(y.Last) }).Last
}

// dropClassesLocked forgets the half of a node's classes that were not seen for longest: once for many new ones.
func (b *Book) dropClassesLocked(classes map[string]*flow.Class) {
	order := slices.SortedFunc(maps.Keys(classes), func(x, y string) int {
		return cmp.Or(classes[x].Last.Compare(classes[y].Last), cmp.Compare(x, y))
	})
	for _, key := range order[:len(order)/2] {
		b.dropped += classes[key].Count
		delete(classes, key)
	}
}

// appendKey writes down what makes decisions alike, so that no two lists of values look the same.
func appendKey(k []byte, workload string, d *flow.Decision) []byte {
	text := func(s string) {
		k = binary.AppendUvarint(k, uint64(len(s)))
		k = append(k, s...)
	}
	flag := func(b bool) {
		k = append(k, 0)
		if b {
			k[len(k)-1] = 1
		}
	}
	p := &d.Profile
	text(workload)
	text(d.RuleVersion)
	flag(p.Deny)
	flag(p.Dedicated)
	k = append(k, byte(p.Encryption))
	text(p.Endpoint)
	text(p.QoS)
	k = binary.AppendUvarint(k, uint64(len(p.Rates)))
	for _, r := range p.Rates {
		k = binary.AppendVarint(k, r.Bytes)
		k = binary.AppendVarint(k, r.Requests)
		text(string(r.Scope))
		text(r.Rule)
	}
	for _, m := range d.Matches { // in one order for one set of rules: that of the rules
		text(m.Rule)
	}
	return k
}

func rulesOf(d *flow.Decision) []string {
	var names []string
	for _, m := range d.Matches {
		names = append(names, m.Rule)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
