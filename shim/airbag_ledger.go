package shim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

const (
	// maxChanges bounds the changes that a decision remembers.
	maxChanges = 64
	// quietRaises is how long no limit is raised before runc is told of the last: it keeps a state of its own, and would put the
	// limit that it knows back in force with whatever else it is asked to change.
	quietRaises = time.Second
	// growingRaises is how long that is put off at most while memory in use grows: runc may take seconds to write what it is told, and by
	// then a container that grows has come to have more.
	growingRaises = time.Minute
)

// ledger writes down what the airbag has done: the kernel came first.
type ledger struct {
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	news   map[*container][]raising // in order; guarded by mu
	untold map[*container]untold    // whose limit runc does not know; guarded by mu
}

// untold is what is known of a container whose limit runc does not know.
type untold struct {
	since time.Time
	used  int64 // memory, when that was looked at last; 0: it was not
}

func newLedger() *ledger {
	return &ledger{
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		news: make(map[*container][]raising), untold: make(map[*container]untold),
	}
}

// canRaise reports whether predicted memory limits may be hard ones here.
func (s *Service) canRaise() bool { return s.cfg.Airbag && cgroup.MemoryWatchable() }

// hear is what the airbag's thread calls: it must not wait for anybody.
func (s *ledger) hear(b *bag, n raising) {
	s.mu.Lock()
	s.news[b.who] = append(s.news[b.who], n)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what is to be written down of a container.
func (s *ledger) take(c *container) []raising {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.news[c]
	delete(s.news, c)
	return out
}

func (s *ledger) waiting() (out []*container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.news {
		out = append(out, c)
	}
	return out
}

// keepLedger writes down what the airbag does, until the shim ends.
func (s *Service) keepLedger() {
	defer close(s.ledger.done)
	tick := time.NewTicker(quietRaises)
	tick.Stop()
	for {
		select {
		case <-s.ledger.stop:
			return
		case <-s.ledger.wake:
			for _, c := range s.ledger.waiting() {
				c.updating.Lock()
				s.enter(c)
				c.updating.Unlock()
			}
			tick.Reset(quietRaises)
		case <-tick.C:
			due, more := s.ledger.due(time.Now())
			for _, c := range due {
				s.tellRunc(c)
			}
			if !more {
				tick.Stop()
			}
		}
	}
}

// due takes the containers of whose limits runc is to be told: they have neither been raised since a while nor do they grow, or grow without end.
func (s *ledger) due(now time.Time) (out []*container, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, u := range s.untold {
		if now.Sub(u.since) < quietRaises/2 {
			continue
		}
		used, err := cgroup.FromMap(c.cgroup).Used() // on an error it is about to end
		if err == nil && (u.used == 0 || used > u.used+calmGrowth) && now.Sub(u.since) < growingRaises {
			u.used = used
			s.untold[c] = u
			continue
		}
		out = append(out, c)
		delete(s.untold, c)
	}
	return out, len(s.untold) > 0
}

// enter makes decisions of what the airbag has done to a container since the last time, one for each move of its limit.
// The caller holds c.updating.
func (s *Service) enter(c *container) {
	for _, n := range s.ledger.take(c) {
		d := c.current()
		f, ok := d.Effective.Lookup(policy.KeyMemory)
		if !ok || f.Author != policy.Prediction || d.Airbag == nil && n.broken == nil || s.container(c.id.Container) != c {
			return // somebody else has decided meanwhile, or it is gone
		}
		if n.broken != nil {
			c.airbag = nil
		}
		if n.to != n.from {
			s.moved(c, d, n)
			continue
		}
		s.reporter.event(heldEvent(c, d, n))
	}
}

// moved puts in force, as far as people and the daemon can see, what the kernel already does.
func (s *Service) moved(c *container, d api.Decision, n raising) {
	origin := policy.Origin{Author: policy.Prediction, Source: api.SourceAirbag, Reason: reasonOf(n), Revision: d.Revision + 1}
	after := d
	after.Revision++
	after.Effective = d.Effective.Renew(policy.KeyMemory, policy.Value(n.to), origin)
	change := api.Change{
		Revision: after.Revision, Time: n.at, Author: origin.Author, Source: origin.Source, Reason: origin.Reason,
		Changed: d.Effective.Diff(after.Effective, func(k policy.Key) bool { return k == policy.KeyMemory }),
	}
	change.Results = []api.Result{{Lever: api.SourceAirbag, Status: api.ResultApplied, Changed: change.Changed, Took: n.took}}
	after.Changes = append(append([]api.Change(nil), d.Changes[max(0, len(d.Changes)-maxChanges+1):]...), change)
	c.put(after)
	s.ledger.mu.Lock()
	s.ledger.untold[c] = untold{since: time.Now()}
	s.ledger.mu.Unlock()
	if c.watch != nil {
		c.watch.raised()
	}
	if err := s.save(c); err != nil {
		log.L.WithError(err).WithField("id", c.id.Container).Warn("forefend: raised limit not recorded")
	}
	e := api.Event{
		Time: n.at, ID: c.id, Run: d.Facts.Run, Kind: api.EventRaised,
		Message: fmt.Sprintf("%s, revision %d", change.Reason, after.Revision),
		Fields: map[string]string{
			"author": origin.Author.String(), "source": origin.Source, "revision": strconv.Itoa(after.Revision),
			"from": strconv.FormatInt(n.from, 10), "to": strconv.FormatInt(n.to, 10), "need": strconv.FormatInt(n.need, 10),
			"rate": strconv.FormatInt(int64(n.rate), 10), "took": n.took.String(), "late": n.late.String(),
		},
	}
	if n.broken != nil {
		e.Kind = api.EventDegraded
	}
	s.reporter.event(e)
	s.reporter.changed(after)
}

// reasonOf says why the airbag moved a limit.
func reasonOf(n raising) string {
	if n.broken != nil {
		return fmt.Sprintf("memory limit %s -> %s: it can no longer be raised when it has to be (%v)", size(n.from), size(n.to), n.broken)
	}
	text := fmt.Sprintf("memory limit %s -> %s: %s are in use", size(n.from), size(n.to), size(n.need))
	if n.rate >= limitStep {
		text += fmt.Sprintf(", growing by %s/s", size(int64(n.rate)/limitStep*limitStep))
	}
	if n.held != "" {
		text += "; not more, because " + n.held
	}
	return text
}

func heldEvent(c *container, d api.Decision, n raising) api.Event {
	e := api.Event{
		Time: n.at, ID: c.id, Run: d.Facts.Run, Kind: api.EventHeld,
		Message: fmt.Sprintf("memory limit stays at %s although %s are in use: %s", size(n.from), size(n.need), n.held),
		Fields:  map[string]string{"limit": strconv.FormatInt(n.from, 10), "need": strconv.FormatInt(n.need, 10), "rate": strconv.FormatInt(int64(n.rate), 10)},
	}
	if n.broken != nil {
		e.Kind, e.Message = api.EventDegraded, fmt.Sprintf("memory limit of %s can no longer be raised when it has to be: %v", size(n.from), n.broken)
	}
	return e
}

// tellRunc brings runc's own state of a container up to date with the limit in force.
func (s *Service) tellRunc(c *container) {
	c.updating.Lock()
	defer c.updating.Unlock()
	d := c.current()
	limit, ok := d.Effective.Limit(policy.KeyMemory)
	if !ok || c.airbag == nil || s.container(c.id.Container) != c || len(s.ledger.waitingOf(c)) > 0 {
		return // the next raise tells
	}
	defer s.changing(c)()
	s.airbags.keep(c.airbag)
	if err := s.runcMemory(c, limit); err != nil {
		log.L.WithError(err).WithField("id", c.id.Container).Debug("forefend: runc was not told of a raised memory limit")
	}
}

// runcMemory lets runc set a container's memory limit.
func (s *Service) runcMemory(c *container, limit int64) error {
	if limit == int64(policy.Unlimited) {
		limit = -1
	}
	body, err := encodeResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if err != nil {
		return err
	}
	_, err = s.TTRPCTaskService.Update(namespaces.WithNamespace(context.Background(), c.id.Namespace), &taskv3.UpdateTaskRequest{
		ID: c.id.Container, Resources: &anypb.Any{TypeUrl: resourcesType, Value: body},
	})
	return err
}

// changing prepares a container for another decision: what the airbag did is part of the one before. What it returns is to be
// called when that is in force, or has failed. The caller holds c.updating.
func (s *Service) changing(c *container) (over func()) {
	if c.airbag != nil {
		s.airbags.change(c.airbag)
	}
	s.enter(c)
	return func() { s.fitAirbag(c) }
}

func (s *ledger) waitingOf(c *container) []raising {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news[c]
}

// fitAirbag makes the airbag of a container what the decision in force says. Where a predicted limit cannot be watched it is
// taken away: nobody would raise it in time. The caller holds c.updating.
func (s *Service) fitAirbag(c *container) {
	d := c.current()
	f, ok := d.Effective.Lookup(policy.KeyMemory)
	predicted := ok && f.Author == policy.Prediction && f.Value != policy.Unlimited
	if s.container(c.id.Container) != c {
		return
	}
	soft, _ := d.Effective.Limit(policy.KeyMemorySoft)
	if soft == 0 {
		soft = math.MaxInt64
	}
	if !predicted || d.Airbag == nil {
		if c.airbag != nil {
			if err := s.airbags.release(c.airbag, soft); err != nil {
				log.L.WithError(err).WithField("id", c.id.Container).Warn("forefend: memory.high stays where the airbag had it")
			}
			c.airbag = nil
		}
		if predicted {
			s.unlimit(c, d, errors.New("the decision says nothing of how to raise it"))
		}
		return
	}
	if c.airbag != nil {
		s.airbags.fit(c.airbag, d.Airbag, soft)
		return
	}
	b, err := s.airbags.arm(c, cgroup.FromMap(c.cgroup), d.Airbag, soft)
	if err != nil {
		s.unlimit(c, d, err)
		return
	}
	c.airbag = b
}

// unlimit takes a predicted limit away, as far as the ceiling.
func (s *Service) unlimit(c *container, d api.Decision, why error) {
	f, _ := d.Effective.Lookup(policy.KeyMemory)
	to := int64(policy.Unlimited)
	if d.Airbag != nil {
		to = d.Airbag.Ceiling
	}
	err := s.runcMemory(c, to)
	n := raising{at: time.Now(), from: int64(f.Value), to: to, broken: errors.Join(why, err)}
	if err != nil {
		n.to = n.from
	}
	s.ledger.hear(&bag{who: c}, n)
}
