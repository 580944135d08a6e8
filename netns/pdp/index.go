package pdp

import (
	"bytes"
	"math"
	"net/netip"
	"slices"
)

// id is the position of a rule in its Set.
type id = uint16

// key is a comparison by which rules are found: of those a rule has one, or several, one of which must hold for the rule to
// apply.
type key struct {
	kind  kind
	field field
	value string
	addr  netip.Addr
	net   netip.Prefix
	port  int64
}

// weight is how much less a field is liked as a key than one of weight 1. What a decision looks at is what its answer is
// remembered by: a path is seldom the same twice, and a process is costly to find out, so these are looked at only once
// the rest of a condition holds. Zero: never.
var weight = [fields]int{
	namespace: 1, workload: 1, image: 1, container: 1, protocol: 4, host: 1, hostProof: 8, service: 1, user: 1, userProof: 8, data: 2,
	operation: 8, method: 8, path: 64, port: 4, destination: 2,
}

// keysOf calls yield for each set of keys that a node offers on its own; a node without any offers none.
func (n *node) keysOf() []key {
	if n.not || weight[n.field] == 0 {
		return nil
	}
	k := key{kind: n.kind, field: n.field}
	var keys []key
	switch n.kind {
	case exact:
		if n.values == nil {
			k.value = n.value
			return []key{k}
		}
		for v := range n.values {
			k.value = v
			keys = append(keys, k)
		}
	case prefix, suffix:
		if n.value != "" {
			k.value = n.value
			keys = append(keys, k)
		}
	case between:
		if n.low == n.high {
			k.port = n.low
			keys = append(keys, k)
		}
	case address:
		for _, a := range n.addrs {
			k.addr = a
			keys = append(keys, k)
		}
	case network:
		k.net = n.net
		keys = append(keys, k)
	}
	return keys
}

// count counts how often each key is offered.
func (n *node) count(in map[key]int) {
	for _, k := range n.keysOf() {
		in[k]++
	}
	for i := range n.kids {
		n.kids[i].count(in)
	}
}

// choose finds the keys that lead to the fewest other rules; cost is how many that are, weighted. A node of which nothing
// can be said has none, at the cost of noKeys. A node that never holds has none and costs nothing.
func (n *node) choose(frequency map[key]int) (keys []key, cost int) {
	switch n.kind {
	case all:
		cost = noKeys
		for i := range n.kids {
			if k, c := n.kids[i].choose(frequency); c < cost {
				keys, cost = k, c
			}
		}
		return keys, cost
	case some:
		for i := range n.kids {
			k, c := n.kids[i].choose(frequency)
			if c == noKeys {
				return nil, noKeys
			}
			keys, cost = append(keys, k...), cost+c
		}
		return keys, cost
	}
	if keys = n.keysOf(); keys == nil {
		return nil, noKeys
	}
	for _, k := range keys {
		cost += frequency[k] * weight[n.field]
	}
	return keys, cost
}

const noKeys = math.MaxInt

// index finds the rules that may apply to a reading.
type index struct {
	text  []textIndex // of the fields that have keys
	ports map[int64][]id
	addrs map[netip.Addr][]id
	nets  map[netip.Prefix][]id
	bits  []int // lengths of the prefixes in nets
	rest  []id  // without a key: they always may
	looks mask  // at these fields
}

type textIndex struct {
	field          field
	exact          map[string][]id
	prefix, suffix tree
}

// add enters a rule.
func (x *index) add(rule id, keys []key) {
	for _, k := range keys {
		x.looks |= k.field.bit()
		switch k.kind {
		case between:
			enter(&x.ports, k.port, rule)
		case address:
			enter(&x.addrs, k.addr, rule)
		case network:
			if !slices.Contains(x.bits, k.net.Bits()) {
				x.bits = append(x.bits, k.net.Bits())
			}
			enter(&x.nets, k.net, rule)
		default:
			x.textOf(k.field).add(rule, k)
		}
	}
}

func (x *index) textOf(f field) *textIndex {
	for i := range x.text {
		if x.text[i].field == f {
			return &x.text[i]
		}
	}
	x.text = append(x.text, textIndex{field: f})
	return &x.text[len(x.text)-1]
}

func (t *textIndex) add(rule id, k key) {
	switch k.kind {
	case exact:
		enter(&t.exact, k.value, rule)
	case prefix:
		t.prefix.add(k.value, rule)
	case suffix:
		t.suffix.add(reverse(k.value), rule)
	}
}

func enter[K comparable](m *map[K][]id, k K, rule id) {
	if *m == nil {
		*m = make(map[K][]id)
	}
	(*m)[k] = append((*m)[k], rule)
}

// find appends the rules that may apply; some more than once.
func (x *index) find(r *reading, found []id) []id {
	r.seen |= x.looks
	found = append(found, x.rest...)
	for i := range x.text {
		t := &x.text[i]
		value := r.text[t.field]
		if t.exact != nil {
			found = append(found, t.exact[value]...)
		}
		found = t.prefix.find(value, false, found)
		found = t.suffix.find(value, true, found)
	}
	if x.ports != nil {
		found = append(found, x.ports[r.number[port-firstNumber]]...)
	}
	if x.addrs != nil {
		found = append(found, x.addrs[r.addr]...)
	}
	for _, bits := range x.bits {
		if net, err := r.addr.Prefix(bits); err == nil {
			found = append(found, x.nets[net]...)
		}
	}
	return found
}

// tree is a radix tree of texts that others begin with.
type tree struct {
	label string // what leads here from the tree above
	rules []id   // of the text that ends here
	first []byte // of the label of each kid
	kids  []tree
}

func (t *tree) add(text string, rule id) {
	for text != "" {
		i := bytes.IndexByte(t.first, text[0])
		if i < 0 {
			t.first, t.kids = append(t.first, text[0]), append(t.kids, tree{label: text, rules: []id{rule}})
			return
		}
		t = &t.kids[i]
		common := 0
		for common < min(len(t.label), len(text)) && t.label[common] == text[common] {
			common++
		}
		if common < len(t.label) {
			below := *t
			below.label = t.label[common:]
			*t = tree{label: text[:common], first: []byte{below.label[0]}, kids: []tree{below}}
		}
		text = text[common:]
	}
	t.rules = append(t.rules, rule)
}

// find appends the rules of all texts of the tree that text begins with, or ends with where it is read backward.
func (t *tree) find(text string, backward bool, found []id) []id {
	at := func(i int) byte {
		if backward {
			return text[len(text)-1-i]
		}
		return text[i]
	}
	for pos := 0; pos < len(text); {
		i := bytes.IndexByte(t.first, at(pos))
		if i < 0 {
			break
		}
		t = &t.kids[i]
		if len(t.label) > len(text)-pos {
			break
		}
		for j := 1; j < len(t.label); j++ {
			if t.label[j] != at(pos+j) {
				return found
			}
		}
		pos += len(t.label)
		found = append(found, t.rules...)
	}
	return found
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
