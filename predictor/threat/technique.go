package threat

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// Technique is an attack pattern: what a technique of MITRE ATT&CK looks like from outside a container. It matches when
// one of its rules does.
type Technique struct {
	ID       string  // of ATT&CK: T1611, T1552.005
	Name     string  // as ATT&CK calls it
	Severity float64 // 0 to 1: of what it leads to
	Rules    []Rule
	Source   string // file and line
}

// Rule is one way in which a technique shows. Every condition that is set has to hold; one without conditions never
// matches.
type Rule struct {
	Confidence float64 // 0 to 1: how surely it is this technique when the rule matches
	Why        string  // what matched, for people

	Syscalls    []string // all of them were made or tried
	Any         []string // one of them was
	Denied      []string // one of them was refused
	Executables []string // one was executed: a base name, or a path pattern as of path.Match
	// Destinations are address prefixes, proto/ADDRESS, :PORT, ADDRESS:PORT or domains; one was reached.
	Destinations []string
	AtLeast      map[string]uint64 // each call was made so often
	Hosts        int               // that many addresses were reached
	Ports        int               // that many ports of one address were reached

	Sequence []string      // these happened in this order: a call's name, "exec:NAME", "connect:DESTINATION"
	Within   time.Duration // and in no more than this; 0: any time

	Unless []string // none of these executables ran, and none is the container's own program
}

// Facts is what was observed of a container.
type Facts struct {
	Program      string            // path of its own program
	Syscalls     map[string]uint64 // made, by name
	Denied       map[string]uint64 // refused
	Executables  []string          // paths of what was executed
	Destinations []string          // as in an observation
	Events       []Event           // the newest, in order of time; empty where nothing records them
}

// Event is one thing that happened.
type Event struct {
	Time time.Time
	What string // a call's name, "exec:PATH" or "connect:DESTINATION"
}

// Bounds of attack patterns.
const (
	maxTechniques = 1000
	maxConditions = 256 // in one list of a rule
)

// Patterns are techniques ready to be matched. They do not change.
type Patterns struct{ techniques []compiled }

type compiled struct {
	Technique
	destinations [][]target // of each rule
}

// target is a destination that a rule names.
type target struct {
	prefix netip.Prefix // invalid: any address, or a domain
	domain string
	port   uint16 // 0: any
	proto  string
}

// NewPatterns checks techniques; one that makes no sense is left out and is a problem.
func NewPatterns(list []Technique) (*Patterns, []Problem) {
	p := &Patterns{}
	var problems []Problem
	for _, t := range list {
		c, err := compile(t)
		if err == nil && len(p.techniques) >= maxTechniques {
			err = fmt.Errorf("there are more than %d techniques", maxTechniques)
		}
		if err != nil {
			problems = append(problems, Problem{File: t.Source, Message: fmt.Sprintf("technique %.20q: %v", t.ID, err)})
			continue
		}
		p.techniques = append(p.techniques, c)
	}
	return p, problems
}

// Len is how many techniques there are.
func (p *Patterns) Len() int { return len(p.techniques) }

func compile(t Technique) (compiled, error) {
	c := compiled{Technique: t}
	if !validID(t.ID) || t.Name == "" || !(t.Severity > 0 && t.Severity <= 1) || len(t.Rules) == 0 {
		return c, fmt.Errorf("needs an id such as T1611, a name, a severity above 0 up to 1, and rules")
	}
	for i, r := range t.Rules {
		targets, err := r.check()
		if err != nil {
			return c, fmt.Errorf("rule %d: %w", i+1, err)
		}
		c.destinations = append(c.destinations, targets)
	}
	return c, nil
}

func validID(id string) bool {
	main, sub, has := strings.Cut(id, ".")
	return len(main) == 5 && main[0] == 'T' && isDigits(main[1:]) && (!has || len(sub) == 3 && isDigits(sub))
}

func (r *Rule) check() ([]target, error) {
	if !(r.Confidence > 0 && r.Confidence <= 1) {
		return nil, fmt.Errorf("confidence %v is not above 0 and up to 1", r.Confidence)
	}
	for _, list := range [][]string{r.Syscalls, r.Any, r.Denied, r.Executables, r.Destinations, r.Sequence, r.Unless} {
		if len(list) > maxConditions {
			return nil, fmt.Errorf("a list of %d is longer than %d", len(list), maxConditions)
		}
		if slices.Contains(list, "") {
			return nil, fmt.Errorf("a list has an empty string")
		}
	}
	if r.Within < 0 || r.Hosts < 0 || r.Ports < 0 || r.empty() {
		return nil, fmt.Errorf("has no condition, or a negative one")
	}
	for _, e := range slices.Concat(r.Executables, r.Unless) {
		if _, err := path.Match(e, ""); err != nil {
			return nil, fmt.Errorf("executable %q: %w", e, err)
		}
	}
	var out []target
	for _, d := range r.Destinations {
		t, ok := parseTarget(d)
		if !ok {
			return nil, fmt.Errorf("destination %q is no address, prefix, :PORT, ADDRESS:PORT or domain", d)
		}
		out = append(out, t)
	}
	return out, nil
}

func (r *Rule) empty() bool {
	return len(r.Syscalls)+len(r.Any)+len(r.Denied)+len(r.Executables)+len(r.Destinations)+len(r.AtLeast)+len(r.Sequence)+r.Hosts+r.Ports == 0
}

func parseTarget(s string) (t target, ok bool) {
	if proto, rest, has := strings.Cut(s, "/"); has && (proto == "tcp" || proto == "udp") {
		t.proto, s = proto, rest
	}
	if port, has := strings.CutPrefix(s, ":"); has {
		n, err := strconv.ParseUint(port, 10, 16)
		t.port = uint16(n)
		return t, err == nil && n > 0
	}
	if p, has := parsePrefix(s); has {
		t.prefix = p
		return t, true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		a := ap.Addr().Unmap()
		t.prefix, t.port = netip.PrefixFrom(a, a.BitLen()), ap.Port()
		return t, true
	}
	i, ok := parseDomain(s)
	t.domain = i.text
	return t, ok
}

// reached is a destination as an observation holds it, taken apart.
type reached struct {
	proto string
	addr  netip.Addr // invalid for a domain
	text  string
	port  uint16
}

func parseReached(s string) reached {
	r := reached{text: s}
	if proto, rest, ok := strings.Cut(s, "/"); ok && !strings.Contains(s, "://") {
		r.proto, s = proto, rest
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		r.addr, r.port = ap.Addr().Unmap().WithZone(""), ap.Port()
	} else if a, err := netip.ParseAddr(s); err == nil {
		r.addr = a.Unmap().WithZone("")
	} else if host, port, ok := strings.Cut(s, ":"); ok {
		n, _ := strconv.ParseUint(port, 10, 16)
		r.text, r.port = host, uint16(n)
	} else {
		r.text = s
	}
	return r
}

func (t target) matches(r reached) bool {
	switch {
	case t.proto != "" && t.proto != r.proto, t.port != 0 && t.port != r.port:
		return false
	case t.prefix.IsValid():
		return r.addr.IsValid() && t.prefix.Contains(r.addr)
	case t.domain != "":
		return !r.addr.IsValid() && (strings.EqualFold(r.text, t.domain) || strings.HasSuffix(strings.ToLower(r.text), "."+t.domain))
	}
	return true
}

// Techniques returns what f matches, each technique once, with its surest rule, in the order of the patterns.
func (p *Patterns) Techniques(f Facts) []evidence.Technique {
	var to []reached
	for _, d := range f.Destinations {
		to = append(to, parseReached(d))
	}
	var out []evidence.Technique
	for i := range p.techniques {
		c := &p.techniques[i]
		best := -1
		for j := range c.Rules {
			if c.Rules[j].matches(&f, to, c.destinations[j]) && (best < 0 || c.Rules[j].Confidence > c.Rules[best].Confidence) {
				best = j
			}
		}
		if best >= 0 {
			out = append(out, evidence.Technique{ID: c.ID, Name: c.Name, Severity: c.Severity,
				Confidence: c.Rules[best].Confidence, Why: c.Rules[best].Why})
		}
	}
	return out
}

func (r *Rule) matches(f *Facts, to []reached, targets []target) bool {
	made := func(name string) bool { return f.Syscalls[name] > 0 || f.Denied[name] > 0 }
	denied := func(name string) bool { return f.Denied[name] > 0 }
	switch {
	case !all(r.Syscalls, made),
		len(r.Any) > 0 && !slices.ContainsFunc(r.Any, made),
		len(r.Denied) > 0 && !slices.ContainsFunc(r.Denied, denied),
		len(r.Executables) > 0 && !executed(r.Executables, f.Executables),
		len(r.Unless) > 0 && (executed(r.Unless, f.Executables) || executed(r.Unless, []string{f.Program})),
		len(targets) > 0 && !hits(targets, to):
		return false
	}
	for name, n := range r.AtLeast {
		if f.Syscalls[name]+f.Denied[name] < n {
			return false
		}
	}
	hosts, ports := spread(to)
	return hosts >= r.Hosts && ports >= r.Ports && inOrder(r.Sequence, f.Events, r.Within)
}

func all(names []string, f func(string) bool) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !f(n) })
}

// executed tells whether one of the programs is one of those that patterns name.
func executed(patterns, programs []string) bool {
	for _, p := range patterns {
		for _, program := range programs {
			name := program
			if !strings.Contains(p, "/") {
				name = path.Base(program)
			}
			if ok, _ := path.Match(p, name); ok && program != "" {
				return true
			}
		}
	}
	return false
}

func hits(targets []target, to []reached) bool {
	for _, t := range targets {
		if slices.ContainsFunc(to, t.matches) {
			return true
		}
	}
	return false
}

// spread counts the addresses reached, and the most ports of one of them.
func spread(to []reached) (hosts, ports int) {
	seen := map[netip.Addr]map[uint16]bool{}
	for _, r := range to {
		if !r.addr.IsValid() || r.addr.IsLoopback() {
			continue
		}
		if seen[r.addr] == nil {
			seen[r.addr] = map[uint16]bool{}
		}
		seen[r.addr][r.port] = true
		ports = max(ports, len(seen[r.addr]))
	}
	return len(seen), ports
}

// inOrder tells whether the steps happened one after the other within the given time, other events between them or not.
// For each end of a match it keeps the latest beginning, in one pass: steps times events.
func inOrder(steps []string, events []Event, within time.Duration) bool {
	if len(steps) == 0 {
		return true
	}
	begun := make([]time.Time, len(steps)) // latest beginning of the first i+1 steps; zero: not yet
	for _, e := range events {
		for i := len(steps) - 1; i >= 0; i-- { // backwards: one event is one step
			if !stepMatches(steps[i], e.What) {
				continue
			}
			if i == 0 {
				begun[0] = e.Time
			} else if !begun[i-1].IsZero() {
				begun[i] = begun[i-1]
			}
			if i == len(steps)-1 && !begun[i].IsZero() && (within == 0 || e.Time.Sub(begun[i]) <= within) {
				return true
			}
		}
	}
	return false
}

func stepMatches(step, what string) bool {
	if pattern, ok := strings.CutPrefix(step, "exec:"); ok {
		program, isExec := strings.CutPrefix(what, "exec:")
		return isExec && executed([]string{pattern}, []string{program})
	}
	if d, ok := strings.CutPrefix(step, "connect:"); ok {
		reachedAt, isConnect := strings.CutPrefix(what, "connect:")
		t, valid := parseTarget(d)
		return isConnect && (d == "*" || valid && t.matches(parseReached(reachedAt)))
	}
	return step == what
}
