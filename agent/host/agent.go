package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/channel"
)

// Agent is the agent of one network namespace, over all the processes that it is in turn.
type Agent struct {
	host   *Host
	target Target
	stop   context.CancelFunc
	done   chan struct{} // closed once all is cleaned up

	mu       sync.Mutex
	session  *session             // nil: none runs now; guarded by mu
	restarts int                  // guarded by mu
	faults   map[channel.Kind]int // guarded by mu
	reason   string               // why the last one ended; guarded by mu
	revision int                  // of what is in force; guarded by mu
	inForce  map[string]string    // by dimension; guarded by mu
}

// Inject starts an agent and returns once it has answered. From then on it is replaced when it dies, until Close. On an
// error nothing is left of it.
func (h *Host) Inject(ctx context.Context, t Target) (*Agent, error) {
	s, err := h.start(ctx, t)
	if err != nil {
		return nil, errors.Join(err, h.cfg.Leave(t.Cgroup))
	}
	run, stop := context.WithCancel(context.Background())
	a := &Agent{host: h, target: t, stop: stop, done: make(chan struct{}), session: s, faults: make(map[channel.Kind]int), inForce: make(map[string]string)}
	a.changed(Change{PID: s.process.pid, Start: s.process.start})
	go a.run(run, s)
	return a, nil
}

// start starts one process and makes its handshake.
func (h *Host) start(ctx context.Context, t Target) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	p, err := h.launch(t)
	if err != nil {
		return nil, err
	}
	s, err := h.greet(ctx, p, t)
	if err == nil && t.Intercept != nil {
		err = s.intercept(ctx, t.Intercept)
	}
	if err != nil {
		if s != nil {
			s.close()
		}
		p.end()
		return nil, err
	}
	return s, nil
}

// run follows the agent, replacing it, until ctx ends.
func (a *Agent) run(ctx context.Context, s *session) {
	defer close(a.done)
	defer func() { _ = a.host.cfg.Leave(a.target.Cgroup) }() // by the record the daemon will do it
	quick, last := quickRestarts, time.Now()
	for {
		reason, fault := a.follow(ctx, s)
		a.put(nil, reason, fault)
		lost := time.Now()
		s.close()
		s.process.end()
		if ctx.Err() != nil {
			return
		}
		a.changed(Change{Reason: reason, Fault: string(fault), Restart: a.count()})
		quick = min(quickRestarts, quick+int(time.Since(last)/slowRestart))
		last = time.Now()
		for s = nil; s == nil; {
			if quick--; quick < 0 && !pause(ctx, slowRestart) {
				return
			}
			var err error
			if s, err = a.host.start(ctx, a.target); err != nil {
				if ctx.Err() != nil || errors.Is(err, errGone) {
					return
				}
				a.put(nil, err.Error(), "")
				a.changed(Change{Reason: err.Error(), Restart: a.count()})
			}
		}
		if again := a.applied(); again.Revision > 0 || len(again.Dimensions) > 0 { // what was in force is again
			_, _ = ask[api.ApplyRequest, api.ApplyResponse](ctx, s, "Apply", again) // an error ends the session soon
		}
		a.mu.Lock()
		a.session, a.restarts = s, a.restarts+1
		a.mu.Unlock()
		a.changed(Change{PID: s.process.pid, Start: s.process.start, Reason: reason, Outage: time.Since(lost), Restart: a.count()})
	}
}

// follow hands events on until the process or the channel ends, or the agent no longer answers. It returns why.
func (a *Agent) follow(ctx context.Context, s *session) (reason string, fault channel.Kind) {
	type answer struct {
		events api.EventsResponse
		err    error
	}
	if a.target.Intercept != nil {
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			s.serveAsks(a.target.Intercept)
		}()
		defer func() { <-asked }()
		defer s.close() // it ends what serves
	}
	var after uint64
	for {
		answers, asked := make(chan answer, 1), time.Now()
		go func() {
			ctx, cancel := context.WithTimeout(ctx, pollWait+grace)
			defer cancel()
			r, err := call[api.EventsRequest, api.EventsResponse](ctx, s, "Events", api.EventsRequest{After: after, Wait: pollWait})
			answers <- answer{r, err}
		}()
		var got answer
		select {
		case got = <-answers:
		case <-s.process.gone:
			select {
			case got = <-answers:
			case <-time.After(drainTime): // somebody else holds its end of the channel
				s.close()
				got = <-answers
			}
		}
		switch {
		case ctx.Err() != nil:
			return "it is no longer needed", ""
		case got.err != nil:
			return a.why(s, got.err)
		}
		if after = got.events.Next; len(got.events.Events) > api.MaxEvents {
			return "it sent more events than it may", ""
		}
		if a.target.Event != nil {
			for _, e := range got.events.Events {
				a.target.Event(e)
			}
		}
		if time.Since(asked) < pace { // whatever it does, it costs us little
			pause(ctx, pace)
		}
	}
}

// why tells a channel's fault from an end that is being reported. Whoever breaks the rules and ends at once has broken them; that the last
// record of a process that ended is not whole breaks none.
func (a *Agent) why(s *session, err error) (reason string, fault channel.Kind) {
	ended := false
	select {
	case <-s.process.gone:
		ended = true
	default:
	}
	select {
	case f := <-s.fault:
		if !ended || f.Kind != channel.Truncated {
			return f.Error(), f.Kind
		}
	default:
	}
	switch {
	case ended:
		return "it ended", ""
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer within %s", pollWait+grace), ""
	}
	return err.Error(), ""
}

// put notes which session is the current one.
func (a *Agent) put(s *session, reason string, fault channel.Kind) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session, a.reason = s, reason
	if fault != "" {
		a.faults[fault]++
	}
}

func (a *Agent) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restarts
}

func (a *Agent) changed(c Change) {
	if a.target.Changed != nil {
		a.target.Changed(c)
	}
}

// pause waits, and reports whether it did so to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close kills the agent, however it is, and returns once it and its cgroup are gone. It may be called again.
func (a *Agent) Close() {
	a.stop()
	a.mu.Lock()
	if a.session != nil {
		a.session.process.kill()
	}
	a.mu.Unlock()
	<-a.done
}

// current is the session with the agent that runs now. The error wraps errdefs.ErrUnavailable.
func (a *Agent) current() (*session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session == nil {
		return nil, fmt.Errorf("agent of %s: none runs now (%s): %w", a.target.Name, a.reason, errdefs.ErrUnavailable)
	}
	return a.session, nil
}

// Process returns the process that is the agent now; zeros while there is none.
func (a *Agent) Process() (pid int, start uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session == nil {
		return 0, 0
	}
	return a.session.process.pid, a.session.process.start
}

// Handshake is what the agent said of itself when it started. The error wraps errdefs.ErrUnavailable.
func (a *Agent) Handshake() (api.HandshakeResponse, error) {
	s, err := a.current()
	if err != nil {
		return api.HandshakeResponse{}, err
	}
	return s.shake, nil
}

// Health asks the agent how it is.
func (a *Agent) Health(ctx context.Context) (api.HealthResponse, error) {
	return askNow[struct{}, api.HealthResponse](ctx, a, "Health", struct{}{})
}

// Dump asks for the sockets of the network namespace.
func (a *Agent) Dump(ctx context.Context, r api.DumpRequest) (api.DumpResponse, error) {
	return askNow[api.DumpRequest, api.DumpResponse](ctx, a, "Dump", r)
}

// Apply puts settings in force, also in the agents that come after this one.
func (a *Agent) Apply(ctx context.Context, r api.ApplyRequest) (api.ApplyResponse, error) {
	resp, err := askNow[api.ApplyRequest, api.ApplyResponse](ctx, a, "Apply", r)
	if err != nil {
		return resp, err
	}
	if len(resp.Results) != len(r.Dimensions) {
		return resp, fmt.Errorf("agent of %s: %d results for %d dimensions", a.target.Name, len(resp.Results), len(r.Dimensions))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revision = r.Revision
	for i, d := range r.Dimensions {
		if resp.Results[i].Status != api.Refused {
			a.inForce[d.Name] = d.Value
		}
	}
	return resp, nil
}

// applied is the request that brings an agent to where the last one was.
func (a *Agent) applied() api.ApplyRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := api.ApplyRequest{Revision: a.revision}
	for name, value := range a.inForce {
		r.Dimensions = append(r.Dimensions, api.Dimension{Name: name, Value: value})
	}
	return r
}

// State is how the agent's processes fared.
type State struct {
	Restarts int
	Faults   map[string]int // of the channel, by kind
	Reason   string         // why the last process ended
	// First and Ready are how long the process that runs now took from the beginning of its injection to its first
	// bytes, and to the end of the handshake.
	First, Ready time.Duration
}

// State returns how the agent's processes fared.
func (a *Agent) State() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := State{Restarts: a.restarts, Reason: a.reason, Faults: make(map[string]int, len(a.faults))}
	if a.session != nil {
		s.First, s.Ready = a.session.first, a.session.ready
	}
	for kind, n := range a.faults {
		s.Faults[string(kind)] = n
	}
	return s
}

// askNow asks the agent that runs now, within callDeadline.
func askNow[Req, Resp any](ctx context.Context, a *Agent, name string, req Req) (resp Resp, err error) {
	s, err := a.current()
	if err != nil {
		return resp, err
	}
	return ask[Req, Resp](ctx, s, name, req)
}

func ask[Req, Resp any](ctx context.Context, s *session, name string, req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	return call[Req, Resp](ctx, s, name, req)
}
