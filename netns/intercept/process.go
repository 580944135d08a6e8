package intercept

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Finder finds the process that opened a connection. An error says why that is not known.
type Finder interface {
	Process(ctx context.Context, local, remote netip.AddrPort) (flow.Process, error)
}

// findWithin is how long a search for a process may take, those of connections before it included.
const findWithin = 2 * time.Second

// caller is who opened a connection, or why that is not known.
type caller struct {
	process flow.Process
	unknown string
}

// ask asks the decision point, and once for each connection for its process where rules want to know it. c has the process then, an empty
// one where it cannot be found, and the reason says so, as it does of a container that is not known.
func (s *session) ask(c *flow.Context) (*flow.Decision, error) {
	who := s.process.Load()
	if who != nil {
		c.Process = &who.process
	}
	d, err := s.e.ask(c)
	if err != nil {
		return d, err
	}
	if slices.Contains(d.Depends, flow.FieldProcess) {
		if c.Process == nil {
			who = s.lookUp()
			c.Process = &who.process
			if d, err = s.e.ask(c); err != nil {
				return d, err
			}
		}
		if who != nil && who.unknown != "" {
			d = noting(d, who.unknown)
		}
	}
	if s.unattributed != "" {
		d = noting(d, s.unattributed)
	}
	return d, nil
}

// ask asks the decision point for what it does not know already: a question takes memory. What it returns is not written to.
func (e *Engine) ask(c *flow.Context) (*flow.Decision, error) {
	if r, ok := e.decider.(Rememberer); ok {
		if d := r.Known(c); d != nil {
			return d, nil
		}
	}
	d, err := e.decider.Decide(e.ctx, *c)
	return &d, err
}

// noting is a decision with something more in its reason.
func noting(d *flow.Decision, what string) *flow.Decision {
	noted := *d
	noted.Reason += "; " + what
	return &noted
}

// lookUp finds the connection's process. Whoever comes first has the word for all later requests.
func (s *session) lookUp() *caller {
	who := new(caller)
	err := errors.New("nobody looks for processes here")
	if s.e.finder != nil {
		ctx, cancel := context.WithTimeout(s.e.ctx, findWithin)
		defer cancel()
		who.process, err = s.e.finder.Process(ctx, s.opener(), s.to)
	}
	if err != nil {
		who = &caller{unknown: "who opened the connection is not known: " + err.Error()}
	}
	if !s.process.CompareAndSwap(nil, who) {
		return s.process.Load()
	}
	return who
}
