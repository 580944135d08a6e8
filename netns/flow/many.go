package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Many are Contexts as they travel together: what they have alike is said once.
type Many struct {
	Count int     `json:"count"`
	Base  Context `json:"base"` // of each, but for what differs
	// Differ are the parts, by their names in JSON, that are not the same in all, each with its values in order. Tokens are always among them,
	// as "token".
	Differ map[string][]string `json:"differ,omitempty"`
}

// part is one of a Context as text.
type part struct {
	get func(*Context) string
	set func(*Context, string) error
}

func text[T ~string](at func(*Context) *T) part {
	return part{
		func(c *Context) string { return string(*at(c)) },
		func(c *Context, s string) error { *at(c) = T(s); return nil },
	}
}

func number(at func(*Context) *int) part {
	return part{
		func(c *Context) string { return strconv.Itoa(*at(c)) },
		func(c *Context, s string) (err error) { *at(c), err = strconv.Atoi(s); return err },
	}
}

// written is a part in JSON; the empty text is its zero value.
func written[T any](at func(*Context) *T, zero func(T) bool) part {
	return part{
		func(c *Context) string {
			if zero(*at(c)) {
				return ""
			}
			body, _ := json.Marshal(at(c)) // texts and numbers, which can be written
			return string(body)
		},
		func(c *Context, s string) error {
			*at(c) = *new(T) // it may be shared
			if s == "" {
				return nil
			}
			return json.Unmarshal([]byte(s), at(c))
		},
	}
}

// parts are all of a Context.
var parts = map[string]part{
	"version":     number(func(c *Context) *int { return &c.Version }),
	"container":   text(func(c *Context) *string { return &c.Container }),
	"namespace":   text(func(c *Context) *string { return &c.Namespace }),
	"workload":    text(func(c *Context) *string { return &c.Workload }),
	"image":       text(func(c *Context) *string { return &c.Image }),
	"risk":        number(func(c *Context) *int { return &c.Risk }),
	"protocol":    text(func(c *Context) *Protocol { return &c.Protocol }),
	"destination": destination,
	"user":        text(func(c *Context) *string { return &c.User }),
	"user_proof":  text(func(c *Context) *Proof { return &c.UserProof }),
	"token":       text(func(c *Context) *Credential { return &c.Credential }),
	"data":        text(func(c *Context) *string { return &c.Data }),
	"label":       text(func(c *Context) *string { return &c.Label }),
	"operation":   text(func(c *Context) *string { return &c.Operation }),
	"host":        text(func(c *Context) *string { return &c.Host }),
	"host_proof":  text(func(c *Context) *Proof { return &c.HostProof }),
	"names":       written(func(c *Context) *[]string { return &c.Names }, func(n []string) bool { return len(n) == 0 }),
	"method":      text(func(c *Context) *string { return &c.Method }),
	"path":        text(func(c *Context) *string { return &c.Path }),
	"service":     text(func(c *Context) *string { return &c.Service }),
	"process":     written(func(c *Context) **Process { return &c.Process }, func(p *Process) bool { return p == nil }),
}

var destination = part{
	func(c *Context) string {
		if c.Destination == (netip.AddrPort{}) {
			return ""
		}
		return c.Destination.String()
	},
	func(c *Context, s string) (err error) {
		if c.Destination = (netip.AddrPort{}); s != "" {
			c.Destination, err = netip.ParseAddrPort(s)
		}
		return err
	},
}

// ManyOf packs Contexts, at least one.
func ManyOf(all []Context) Many {
	m := Many{Count: len(all), Base: all[0], Differ: make(map[string][]string)}
	m.Base.Credential = ""
	for name, p := range parts {
		base := p.get(&m.Base)
		if i := slices.IndexFunc(all, func(c Context) bool { return p.get(&c) != base }); i < 0 {
			continue
		}
		values := make([]string, len(all))
		for i := range all {
			values[i] = p.get(&all[i])
		}
		m.Differ[name] = values
	}
	return m
}

// Contexts unpacks them, at most so many. It trusts nothing.
func (m *Many) Contexts(most int) ([]Context, error) {
	if m.Count < 1 || m.Count > most {
		return nil, fmt.Errorf("%d contexts, the most is %d", m.Count, most)
	}
	all := slices.Repeat([]Context{m.Base}, m.Count)
	for name, values := range m.Differ {
		p, known := parts[name]
		if !known || len(values) != m.Count {
			return nil, fmt.Errorf("%d values of %.30q for %d contexts", len(values), name, m.Count)
		}
		for i, v := range values {
			if err := p.set(&all[i], v); err != nil {
				return nil, fmt.Errorf("%s of a context: %w", name, err)
			}
		}
	}
	return all, nil
}

// Answers are Decisions about Many: those that differ, and which is whose.
type Answers struct {
	Decisions []Decision `json:"decisions"`
	Which     []int      `json:"which"` // of each Context, its place in Decisions; less than 0: there is none

	places map[string]int // by Reason, of the last that has it
}

// Add answers about the next Context; nil: not at all. What is said already but for how long it is good is said once, and good for as long as
// the first of them.
func (a *Answers) Add(d *Decision) {
	if d == nil {
		a.Which = append(a.Which, -1)
		return
	}
	if i, ok := a.places[d.Reason]; ok && a.Decisions[i].same(d) {
		if was := &a.Decisions[i]; was.Valid == 0 || d.Valid > 0 && d.Valid < was.Valid {
			was.Valid = d.Valid
		}
		a.Which = append(a.Which, i)
		return
	}
	if a.places == nil {
		a.places = make(map[string]int)
	}
	a.places[d.Reason] = len(a.Decisions)
	a.Which = append(a.Which, len(a.Decisions))
	a.Decisions = append(a.Decisions, *d)
}

// Of is the answer about a Context by its number; nil: there is none.
func (a *Answers) Of(i int) *Decision {
	if n := a.Which[i]; n >= 0 && n < len(a.Decisions) {
		return &a.Decisions[n]
	}
	return nil
}

// same tells whether two say the same but for how long.
func (d *Decision) same(o *Decision) bool {
	return d.Version == o.Version && d.Epoch == o.Epoch && d.Reason == o.Reason && d.RuleVersion == o.RuleVersion &&
		slices.Equal(d.Matches, o.Matches) && slices.Equal(d.Depends, o.Depends) && d.Profile.same(&o.Profile)
}

func (p *Profile) same(o *Profile) bool {
	return p.Deny == o.Deny && p.Encryption == o.Encryption && p.Dedicated == o.Dedicated && p.Endpoint == o.Endpoint && p.QoS == o.QoS &&
		slices.Equal(p.Rates, o.Rates)
}
