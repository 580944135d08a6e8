package pdp

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/common/types"

	"forefend.dev/forefend/netns/flow"
)

// Moment is what a decision depends on beside its Context.
type Moment struct {
	Now  time.Time
	Load int // of the node, percent of its processors
}

// failed marks, beside the id of a rule, that its condition could not be evaluated.
const failed id = 1 << 15

// end ends the ids of one reading.
const end id = 1<<16 - 1

// Decide answers for one Context. The answer's slices are shared and must not be written to; its Epoch is the caller's to set.
func (s *Set) Decide(c *flow.Context, at Moment) flow.Decision {
	var r reading
	r.fill(c, at)
	if len(r.names) > flow.MaxNames {
		return flow.Decision{Version: flow.Version, RuleVersion: s.options.Version, Profile: flow.Profile{Deny: true}, Depends: host.bit().names(),
			Reason: fmt.Sprintf("denied: a host that is one of %d names, the most is %d", len(r.names), flow.MaxNames)}
	}
	if c.UserProof != flow.Claimed && c.UserProof != flow.Verified {
		r.unclaimed()
	}
	var few [64]id
	applied := few[:0] // of each reading, in order, each ended by end
	if c.Data == "" {
		r.text[data] = s.options.Data
		applied = s.readUnsaid(&r, c.Label, applied)
	} else {
		applied = s.readClaims(&r, applied)
	}
	seen := r.seen
	if seen&user.bit() != 0 { // whose name it is goes by the proof, and without one it is the workload's
		seen |= userProof.bit()
		if c.UserProof != flow.Verified {
			seen |= workload.bit()
		}
	}
	if seen&host.bit() != 0 { // and a host counts for what speaks for it
		seen |= hostProof.bit()
	}
	if s.options.Lookups != nil && falls(applied) {
		seen |= protocol.bit()
		if c.Protocol == flow.DNS {
			seen |= lookups
		}
	}
	d := *s.memo.get(s, seen, applied)
	if c.Process == nil && seen&(executable.bit()|pid.bit()) != 0 {
		d.Profile, d.Reason = flow.Profile{Deny: true}, "a rule asks for the process, which was not looked up"
	}
	d.Valid = s.horizon.holds(seen, at.Now)
	return d
}

// readUnsaid decides a request of which nothing says the class of data: as the site's default, else as each class that rules name and
// as none of them; and as the class that the workload claims, if it does.
func (s *Set) readUnsaid(r *reading, label string, applied []id) []id {
	before := r.text
	applied = s.readClaims(r, applied)
	if r.seen&data.bit() == 0 {
		return applied // nobody asked
	}
	if before[data] == "" {
		for _, class := range s.classes {
			applied = s.readAs(r, &before, class, applied)
		}
	}
	if label != "" {
		applied = s.readAs(r, &before, label, applied)
	}
	return applied
}

// readAs decides a request as if its data were of a class.
func (s *Set) readAs(r *reading, before *[texts]string, class string, applied []id) []id {
	r.text = *before
	r.text[data] = class
	return s.readClaims(r, applied)
}

// lookups marks, beside the fields that were looked at, that the default is that of queries for names.
const lookups mask = 1 << 31

// falls tells whether some reading has no rule.
func falls(applied []id) bool {
	for i := range applied {
		if applied[i] == end && (i == 0 || applied[i-1] == end) {
			return true
		}
	}
	return false
}

// readClaims decides with a host that is only claimed, and without it.
func (s *Set) readClaims(r *reading, applied []id) []id {
	who, proof, names := r.text[user], r.text[userProof], r.names
	applied = s.readUser(r, applied)
	if r.text[hostProof] == string(flow.Claimed) && r.seen&(host.bit()|hostProof.bit()) != 0 {
		r.unnamed()
		r.text[user], r.text[userProof] = who, proof
		applied = s.readUser(r, applied)
		r.names = names
	}
	return applied
}

// readUser decides with an identity that was claimed, and without it.
func (s *Set) readUser(r *reading, applied []id) []id {
	applied = s.readNames(r, applied)
	if r.text[userProof] == string(flow.Claimed) && r.seen&(user.bit()|userProof.bit()) != 0 {
		r.unclaimed()
		applied = s.readNames(r, applied)
	}
	return applied
}

// readNames decides a request whose host is one of several names, nobody knows which: as of each of them. One that no rule speaks of adds nothing
// where a rule speaks of another: under that name alone it would be decided so. What rules say of several of them is merged, and what they say
// alike counts once.
func (s *Set) readNames(r *reading, applied []id) []id {
	if r.names == nil {
		return s.read(r, applied)
	}
	start, ruled := len(applied), false
	var amended []id // the site's own rules, under names that no other rule speaks of
	for _, name := range r.names {
		r.text[host] = name
		from := len(applied)
		applied = s.read(r, applied)
		switch has := s.rule(applied[from:]); {
		case has && !ruled: // what was read before it has the default only
			amended = append(amended, applied[start:from]...)
			applied, ruled = append(applied[:start], applied[from:]...), true
		case !has && ruled:
			amended = append(amended, applied[from:]...)
			applied = applied[:from]
		case hasReading(applied[start:from], applied[from:]):
			applied = applied[:from]
		}
		if r.seen&host.bit() == 0 {
			break // nobody asked
		}
	}
	r.text[host] = ""
	for _, i := range amended {
		if ruled && i != end && !slices.Contains(applied[start:], i) {
			applied = slices.Insert(applied, start, i)
		}
	}
	return applied
}

// rule tells whether a rule that is not the site's own speaks in one reading.
func (s *Set) rule(applied []id) bool {
	return slices.ContainsFunc(applied, func(i id) bool { return i != end && !s.rules[i&^failed].amends })
}

// hasReading tells whether one of some readings is the same as another.
func hasReading(some, other []id) bool {
	for len(some) > 0 {
		n := slices.Index(some, end) + 1
		if slices.Equal(some[:n], other) {
			return true
		}
		some = some[n:]
	}
	return false
}

// read appends the rules that apply to one reading.
func (s *Set) read(r *reading, applied []id) []id {
	var few [64]id
	start := len(applied)
	for _, i := range s.index.find(r, few[:0]) {
		rule := &s.rules[i]
		v := rule.when.eval(r)
		if v == unknown {
			if v = rule.ask(r); v == unknown {
				i |= failed
			}
		}
		if v != no {
			applied = append(applied, i)
		}
	}
	slices.Sort(applied[start:])
	applied = applied[:start+len(slices.Compact(applied[start:]))]
	return append(applied, end)
}

// ask has CEL evaluate the condition; unknown: it could not.
func (r *rule) ask(from *reading) verdict {
	own := *from // a reading that CEL sees is on the heap
	out, _, err := r.program.Eval(activation{&own})
	from.seen |= own.seen
	if b, ok := out.(types.Bool); ok && err == nil {
		return verdictOf(bool(b))
	}
	return unknown
}

// memo keeps what follows from the rules that apply: that is merged and explained once.
type memo struct {
	mu    sync.RWMutex
	known map[string]*flow.Decision // guarded by mu
}

// maxMemo bounds a memo: combinations of rules are few, unless somebody looks for many.
const maxMemo = 4096

func (m *memo) get(s *Set, seen mask, applied []id) *flow.Decision {
	var few [4 + 2*64]byte
	k := binary.LittleEndian.AppendUint32(few[:0], uint32(seen))
	for _, i := range applied {
		k = binary.LittleEndian.AppendUint16(k, i)
	}
	m.mu.RLock()
	d := m.known[string(k)]
	m.mu.RUnlock()
	if d != nil {
		return d
	}
	d = s.conclude(seen, applied)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) == maxMemo {
		m.known = make(map[string]*flow.Decision)
	}
	m.known[string(k)] = d
	return d
}

// conclude merges the rules that apply to all readings.
func (s *Set) conclude(seen mask, applied []id) *flow.Decision {
	d := &flow.Decision{Version: flow.Version, RuleVersion: s.options.Version, Depends: seen.names()}
	var list []contribution
	var broken []string
	readings, ruled, byDefault := 0, false, false
	told := make(map[id]bool)
	for _, i := range applied {
		if i == end {
			readings++
			byDefault = byDefault || !ruled
			ruled = false
			continue
		}
		ruled = ruled || !s.rules[i&^failed].amends
		if told[i] {
			continue
		}
		told[i] = true
		r := &s.rules[i&^failed]
		why := r.Source + ": " + short(r.When)
		if i&failed != 0 {
			why += " cannot be evaluated, which denies"
			broken = append(broken, r.Name)
			list = append(list, contribution{r.Name, flow.Profile{Deny: true}})
		} else {
			list = append(list, contribution{r.Name, r.Profile})
		}
		d.Matches = append(d.Matches, flow.Match{Rule: r.Name, Reason: why})
	}
	if byDefault {
		if by := "the default"; seen&lookups == 0 {
			list = append(list, contribution{by, s.options.Default})
		} else {
			list = append(list, contribution{by + " of lookups", *s.options.Lookups})
		}
	}
	d.Profile = list[0].profile
	for _, c := range list[1:] {
		d.Profile = Join(d.Profile, c.profile)
	}
	d.Reason = explain(list, d.Profile)
	if len(list) == 1 && byDefault {
		d.Reason = "no rule applies: " + d.Reason
	}
	if broken != nil {
		d.Reason += "; cannot be evaluated: " + strings.Join(broken, ", ")
	}
	if readings > 1 {
		d.Reason += fmt.Sprintf("; the strictest of %d readings, since the user, the host or the class of data is only claimed, or unknown", readings)
	}
	return d
}

// short cuts a condition to what fits on a line.
func short(when string) string {
	const most = 160
	when = strings.Join(strings.Fields(when), " ")
	if len(when) > most {
		when = strings.ToValidUTF8(when[:most], "") + "…"
	}
	return when
}
