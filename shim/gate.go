package shim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// Gates puts a gate into the cgroup of each container: what lets its packets through, or not (netns/gate; the two meet in
// cmd). Methods may be called from any goroutine.
type Gates interface {
	// Ready says why there can be no gates on this node, nil if there can.
	Ready() error
	// Gate puts a gate into the cgroup at a directory of the v2 hierarchy; it lets everything pass until Gate.Set. seen is told what
	// it sees, from one goroutine for all gates. pid is the container's first process: its network namespace is where the gate finds
	// the interfaces on which packet sockets send.
	Gate(dir string, pid int, seen func(Passage)) (Gate, error)
	// Close forgets all gates. What was set stays in force.
	Close() error
}

// Gate is the gate of one container.
type Gate interface {
	// Set puts rules in force, whole, for the next packet. On an error what was in force before still is.
	Set(GateRules) error
	// Frames says why packet sockets get past the rules in force; nil: they do not.
	Frames() error
	// Close forgets the gate. What was set stays in force while the cgroup exists.
	Close() error
}

// GateRules are all that a gate holds a container to. The zero value lets everything pass; loopback always passes, and so do
// answers to who began a contact, except while Off.
type GateRules struct {
	Off          bool // no network but loopback, in either direction
	Closed       bool // no contact is begun but with Allow
	Allow, Block []netip.Prefix
	// AllowNames and BlockNames are members of egress that are hosts, which the container's interceptor can tell apart, and a gate cannot.
	AllowNames, BlockNames []string
	WatchListed            bool // contacts with addresses that threat feeds list are seen
	BlockListed            bool // and not let through
}

// restricts tells whether the rules keep anything from passing.
func (r GateRules) restricts() bool { return r.Off || r.Closed || len(r.Block) > 0 || r.BlockListed }

// Passage is what a gate saw of a container.
type Passage struct {
	// Accepted marks the first TCP connection of the run that the container accepted, on Port, from Destination. The kernel
	// completes connections before the application takes them: it says that somebody listens and is reached. UDP and unix servers
	// give no such sign.
	Accepted bool
	Port     uint16

	Destination string // "tcp/192.0.2.1:443", as in observations
	Refused     bool   // it did not pass
	Listed      bool   // a threat feed lists it
	Why         string // "network off", "blocked", "not allowed", "listed"
	Packets     uint64 // of the same contact since it was last told; 0: the first
}

// rulesOf are the rules of a policy.
func rulesOf(e policy.Effective) GateRules {
	feeds := e.Value(policy.KeyEgressFeeds, policy.FeedsWatch)
	r := GateRules{
		Off: e.Value(policy.KeyNetwork, policy.Loose) == policy.Tight, Closed: e.Value(policy.KeyEgressDefault, policy.Loose) == policy.Tight,
		WatchListed: feeds <= policy.FeedsWatch, BlockListed: feeds == policy.FeedsBlock,
	}
	for _, f := range e.Fields {
		if f.Key != policy.KeyEgress || f.NoValue {
			continue
		}
		for _, name := range f.Names {
			switch p, ok := policy.ParseEgress(name); {
			case !ok && f.Value == policy.Tight:
				r.BlockNames = append(r.BlockNames, name)
			case !ok:
				r.AllowNames = append(r.AllowNames, name)
			case f.Value == policy.Tight:
				r.Block = append(r.Block, p)
			default:
				r.Allow = append(r.Allow, p)
			}
		}
	}
	return r
}

// gated tells whether this node has gates, and if not, why.
func (s *Service) gated() error {
	switch {
	case s.cfg.Gates == nil:
		return errors.New("this shim has no gates")
	case cgroup.CurrentMode() == cgroup.V1:
		return errors.New("no cgroup v2 hierarchy is mounted")
	}
	return s.cfg.Gates.Ready()
}

// openGate puts the gate of a new container into its cgroup, before its first instruction. Without one, the container runs only
// if its policy keeps nothing from passing.
func (s *Service) openGate(c *container, group cgroup.Group) error {
	d := c.current()
	if d.Availability == api.ByNobody || d.AsAsked {
		c.gateless = errors.New("nothing of this container is governed")
		return nil
	}
	rules := rulesOf(d.Effective)
	if c.gateless = s.gate(c, group); c.gateless == nil {
		c.gateless = c.gate.Set(rules)
	}
	if c.gateless == nil {
		s.tellFrames(c)
		return nil
	}
	c.forgo("this container has no gate: " + c.gateless.Error())
	rules = rulesOf(c.current().Effective)
	if rules.Off && c.offline {
		rules.Off = false // it has a network namespace with nothing in it
	}
	if rules.restricts() {
		return fmt.Errorf("the network policy cannot be enforced: %w: %w", c.gateless, errdefs.ErrFailedPrecondition)
	}
	s.reporter.event(api.Event{
		Time: time.Now(), ID: c.id, Run: d.Facts.Run, Kind: api.EventDegraded,
		Message: "the network of this container is not watched and cannot be restricted: " + c.gateless.Error(),
	})
	return nil
}

// forgo takes what a prediction says of the network out of the decision: a safeguard that cannot be put in force is no reason for a
// container not to start. What anybody demands stays.
func (c *container) forgo(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgoLocked(why, func(k policy.Key) bool {
		return k.Dimension() == policy.Egress || k == policy.KeyNetwork && !c.offline
	})
}

// forgoLocked is forgo for some keys. c.mu is held, or the container not known to anybody yet.
func (c *container) forgoLocked(why string, which func(policy.Key) bool) {
	fields := slices.Clone(c.decision.Effective.Fields)
	for i, f := range fields {
		if f.Author == policy.Prediction && !f.NoValue && which(f.Key) {
			fields[i].NoValue = true
			c.decision.Notes = append(slices.Clone(c.decision.Notes), fmt.Sprintf("%s = %s (%s) is not applied: %s", f.Key, f.Key.Format(f.Value), f.Source, why))
		}
	}
	c.decision.Effective.Fields = fields
}

// tellFrames says when packet sockets get past the rules in force. Most containers that have CAP_NET_RAW have no use for one.
func (s *Service) tellFrames(c *container) {
	if err := c.gate.Frames(); err != nil {
		s.reporter.event(api.Event{
			Time: time.Now(), ID: c.id, Run: c.current().Facts.Run, Kind: api.EventDegraded,
			Message: "a packet socket of this container gets past its network policy (drop CAP_NET_RAW): " + err.Error(),
		})
	}
}

func (s *Service) gate(c *container, group cgroup.Group) (err error) {
	if err := s.gated(); err != nil {
		return err
	}
	if err := ownGroup(group.Unified); err != nil {
		return err
	}
	c.gate, err = s.cfg.Gates.Gate(group.Unified, c.pid, func(p Passage) { s.onPassage(c, p) })
	return err
}

// ownGroup refuses a directory of the v2 hierarchy that a container shares: a runc that knows nothing of it leaves the container where
// the shim is.
func ownGroup(dir string) error {
	if dir == "" {
		return errors.New("the container has no cgroup in the v2 hierarchy")
	}
	own, err := cgroup.Self()
	if err != nil {
		return err
	}
	if dir == own.Unified || dir == cgroup.UnifiedRoot() {
		return fmt.Errorf("the container has no cgroup of its own in the v2 hierarchy: it is in %s", dir)
	}
	return nil
}

// onPassage tells people what a gate saw.
func (s *Service) onPassage(c *container, p Passage) {
	if p.Accepted {
		if s.accepted != nil {
			s.accepted(c, p)
		}
		return
	}
	c.passages.add(p)
	d := c.current()
	e := api.Event{
		Time: time.Now(), ID: c.id, Run: d.Facts.Run, Kind: api.EventDenied,
		Message: fmt.Sprintf("contact with %s refused: %s", p.Destination, whyRefused(d.Effective, p)),
		Fields:  map[string]string{"destination": p.Destination, "why": p.Why},
	}
	if p.Packets > 0 {
		e.Fields["packets"] = strconv.FormatUint(p.Packets, 10)
	}
	if !p.Refused {
		e.Kind, e.Message = api.EventThreat, fmt.Sprintf("contact with %s, which a threat feed lists", p.Destination)
	}
	s.reporter.event(e)
}

// whyRefused names whose decision it was.
func whyRefused(e policy.Effective, p Passage) string {
	by := func(k policy.Key) string {
		if f, ok := e.Lookup(k); ok {
			return fmt.Sprintf("%s = %s by %s (%s)", k, k.Format(f.Value), f.Author, f.Source)
		}
		return p.Why
	}
	switch {
	case e.Value(policy.KeyNetwork, policy.Loose) == policy.Tight:
		return by(policy.KeyNetwork)
	case p.Listed:
		return "a threat feed lists it, " + by(policy.KeyEgressFeeds)
	case p.Why == "blocked":
		return "blocked by " + by(blocking(e, p.Destination))
	}
	return by(policy.KeyEgressDefault)
}

// blocking is the member of egress that holds a destination, the most specific.
func blocking(e policy.Effective, destination string) policy.Key {
	a, err := netip.ParseAddrPort(afterSlash(destination))
	best, bits := policy.KeyEgress, -1
	for name, v := range e.Members(policy.KeyEgress) {
		if p, ok := policy.ParseEgress(name); ok && err == nil && v == policy.Tight && p.Contains(a.Addr()) && p.Bits() > bits {
			best, bits = policy.KeyEgress.Member(name), p.Bits()
		}
	}
	return best
}

func afterSlash(s string) string {
	for i := range len(s) {
		if s[i] == '/' {
			return s[i+1:]
		}
	}
	return s
}

// closeGate forgets the gate of a container that is gone.
func (c *container) closeGate() error {
	if c.gate == nil {
		return nil
	}
	return c.gate.Close()
}
