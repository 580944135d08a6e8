package pdp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"forefend.dev/forefend/netns/flow"
)

// Join merges two profiles: the most encryption, dedicated over shared, the less urgent QoS class, the least rate of each
// scope. One that denies wins, and two that name different endpoints deny. It is idempotent, commutative and associative,
// and its result is never looser than either.
func Join(a, b flow.Profile) flow.Profile {
	switch {
	case a.Deny || b.Deny, a.Endpoint != b.Endpoint && a.Endpoint != "" && b.Endpoint != "":
		return flow.Profile{Deny: true}
	}
	return flow.Profile{
		Encryption: max(a.Encryption, b.Encryption),
		Dedicated:  a.Dedicated || b.Dedicated,
		Endpoint:   cmp.Or(a.Endpoint, b.Endpoint),
		Rates:      joinRates(a.Rates, b.Rates),
		QoS:        joinQoS(a.QoS, b.QoS),
	}
}

func joinQoS(a, b string) string {
	if a == "" || b == "" {
		return cmp.Or(a, b)
	}
	return flow.QoSClasses[min(slices.Index(flow.QoSClasses, a), slices.Index(flow.QoSClasses, b))]
}

// joinRates keeps the least of each scope. What rules share among their own flows is one rate for each rule. A rate may have a
// number of bytes, of requests or both; they are compared one by one.
func joinRates(a, b []flow.Rate) []flow.Rate {
	type shared struct {
		scope flow.Scope
		rule  string // of PerRule
	}
	bytes, requests := make(map[shared]flow.Rate), make(map[shared]flow.Rate)
	least := func(m map[shared]flow.Rate, r flow.Rate, of func(flow.Rate) int64) {
		if of(r) == 0 {
			return
		}
		s := shared{scope: r.Scope}
		if r.Scope == flow.PerRule {
			s.rule = r.Rule
		}
		if had, ok := m[s]; !ok || of(r) < of(had) || of(r) == of(had) && r.Rule < had.Rule {
			m[s] = r
		}
	}
	for _, r := range slices.Concat(a, b) {
		least(bytes, flow.Rate{Bytes: r.Bytes, Scope: r.Scope, Rule: r.Rule}, func(r flow.Rate) int64 { return r.Bytes })
		least(requests, flow.Rate{Requests: r.Requests, Scope: r.Scope, Rule: r.Rule}, func(r flow.Rate) int64 { return r.Requests })
	}
	var rates []flow.Rate
	for s, r := range bytes {
		if also, ok := requests[s]; ok && also.Rule == r.Rule {
			r.Requests = also.Requests
			delete(requests, s)
		}
		rates = append(rates, r)
	}
	for _, r := range requests {
		rates = append(rates, r)
	}
	slices.SortFunc(rates, func(a, b flow.Rate) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Rule, b.Rule), cmp.Compare(b.Bytes, a.Bytes))
	})
	return rates
}

// contribution is a profile and who wants it.
type contribution struct {
	by      string
	profile flow.Profile
}

// explain says on one line what decided, and over what.
func explain(list []contribution, joined flow.Profile) string {
	if joined.Deny {
		return explainDenial(list)
	}
	parts := []string{fmt.Sprintf("encryption %s by %s", joined.Encryption, by(list, func(p flow.Profile) bool { return p.Encryption == joined.Encryption }))}
	if lost := by(list, func(p flow.Profile) bool { return p.Encryption < joined.Encryption }); lost != "" {
		parts[0] += " over " + lost
	}
	if joined.Dedicated {
		parts = append(parts, "dedicated by "+by(list, func(p flow.Profile) bool { return p.Dedicated }))
	}
	if joined.Endpoint != "" {
		parts = append(parts, "endpoint "+joined.Endpoint+" by "+by(list, func(p flow.Profile) bool { return p.Endpoint != "" }))
	}
	for _, r := range joined.Rates {
		parts = append(parts, fmt.Sprintf("%s by %s", RateText(r), r.Rule))
	}
	if joined.QoS != "" {
		parts = append(parts, "qos "+joined.QoS+" by "+by(list, func(p flow.Profile) bool { return p.QoS == joined.QoS }))
	}
	return strings.Join(parts, ", ")
}

func explainDenial(list []contribution) string {
	if who := by(list, func(p flow.Profile) bool { return p.Deny }); who != "" {
		return "denied by " + who
	}
	var wanted []string
	for _, c := range list {
		if c.profile.Endpoint != "" {
			wanted = append(wanted, c.by+" wants "+c.profile.Endpoint)
		}
	}
	return "denied: no tunnel has two endpoints: " + strings.Join(wanted, ", ")
}

// by lists who wants what holds.
func by(list []contribution, holds func(flow.Profile) bool) string {
	var names []string
	for _, c := range list {
		if holds(c.profile) {
			names = append(names, c.by)
		}
	}
	return strings.Join(names, " and ")
}

// RateText is a rate in words: "50mbit and 100/s per user".
func RateText(r flow.Rate) string {
	var parts []string
	if r.Bytes > 0 {
		parts = append(parts, BitsText(r.Bytes))
	}
	if r.Requests > 0 {
		parts = append(parts, fmt.Sprintf("%d/s", r.Requests))
	}
	return strings.Join(parts, " and ") + " per " + string(r.Scope)
}

// BitsText writes bytes a second as rules do, in bits.
func BitsText(bytes int64) string {
	bits, unit := bytes*8, 0
	units := []string{"bit", "kbit", "mbit", "gbit"}
	for unit < len(units)-1 && bits%1000 == 0 {
		bits, unit = bits/1000, unit+1
	}
	return fmt.Sprintf("%d%s", bits, units[unit])
}
