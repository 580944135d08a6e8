package shim

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// predicted is a fixture whose container "one" has a predicted limit in a group that is pretended, and the sentry of it.
func predicted(t *testing.T, p *pretend, table *api.Airbag) (*fixture, *container, *drill) {
	t.Helper()
	f, c := supervised(t)
	drill := newDrill(t, t.TempDir(), f.service.ledger.hear)
	f.service.airbags = drill.airbags
	d := c.current()
	d.Effective = d.Effective.Put(policy.Field{Key: policy.KeyMemory, Value: policy.Value(p.limit()), Origin: policy.Origin{Author: policy.Prediction, Source: "history", Reason: "seen"}})
	d.Airbag = table
	c.updating.Lock()
	defer c.updating.Unlock()
	c.put(d)
	c.cgroup = p.group().Map()
	f.service.fitAirbag(c)
	return f, c, drill
}

// told are the events of a kind that wait for the daemon, and are not just being sent in vain.
func (f *fixture) told(kind string) (out []api.Event) {
	r := f.service.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("never: " + what)
		}
	}
}

// A raise is a revision with a reason, an event, a record on disk that says so, and known to runc once it is calm.
func TestLedgerOfARaise(t *testing.T) {
	p := newPretend(t, t.TempDir(), true, 200*mib, 100*mib)
	table := plain()
	f, c, sentry := predicted(t, p, &table)
	told := make(chan int64, 8)
	f.inner.update = func(r *taskv3.UpdateTaskRequest) error {
		var res specs.LinuxResources
		if err := json.Unmarshal(r.Resources.Value, &res); err != nil || res.Memory == nil || res.Memory.Limit == nil {
			return errors.New("no memory limit")
		}
		told <- *res.Memory.Limit
		return nil
	}
	p.grow(190 * mib)
	sentry.ring(c.airbag)
	to := p.limit()
	soon(t, "a revision", func() bool { return c.current().Revision == 2 })
	d := c.current()
	field, _ := d.Effective.Lookup(policy.KeyMemory)
	if field.Value != policy.Value(to) || field.Author != policy.Prediction || field.Source != api.SourceAirbag || !strings.Contains(field.Reason, "memory limit 200 MiB -> ") ||
		!slices.ContainsFunc(field.Lost, func(l policy.Lost) bool { return l.Value == 200*mib && l.Source == "history" }) {
		t.Errorf("memory %+v", field)
	}
	if n := len(d.Changes); n != 1 || d.Changes[0].Results[0].Lever != api.SourceAirbag || len(d.Changes[0].Changed) != 1 {
		t.Errorf("changes %+v", d.Changes)
	}
	var raised []api.Event
	soon(t, "an event", func() bool { raised = f.told(api.EventRaised); return len(raised) == 1 })
	if raised[0].Fields["from"] != "209715200" || raised[0].Fields["need"] != "199229440" || !strings.Contains(raised[0].Message, "revision 2") {
		t.Errorf("told %+v", raised)
	}
	if r, err := f.cfg.Containers.Read(c.id); err != nil || r.Decision.Revision != 2 || r.Decision.Effective.Value(policy.KeyMemory, 0) != policy.Value(to) {
		t.Errorf("recorded: %v, %+v", err, r.Decision)
	}
	if n := c.watch.observation().Usage.Raises; n != 1 {
		t.Errorf("the observation counts %d raises", n)
	}
	select {
	case limit := <-told:
		if limit != to {
			t.Errorf("runc is told %d", limit)
		}
	case <-time.After(time.Minute):
		t.Error("runc is not told")
	}
}

// runc is told once a container no longer grows: it may take seconds to write what it is told, and a limit of before would be in force. Who
// grows without end does not put it off for good.
func TestLedgerTellsWhoHasGrown(t *testing.T) {
	p := newPretend(t, t.TempDir(), true, 200*mib, 100*mib)
	c := &container{cgroup: map[string]string{"memory": p.dir}}
	l := newLedger()
	begin := time.Now()
	due := func(after time.Duration) bool {
		out, more := l.due(begin.Add(after))
		if more == (len(out) > 0) {
			t.Errorf("after %v: %d due, more %v", after, len(out), more)
		}
		return len(out) == 1
	}
	for name, test := range map[string]struct {
		grows int64 // each second
		want  time.Duration
	}{
		"calm": {want: 2 * time.Second}, "as good as calm": {grows: calmGrowth, want: 2 * time.Second}, "growing": {grows: 8 * mib, want: growingRaises},
	} {
		t.Run(name, func(t *testing.T) {
			l.untold[c] = untold{since: begin}
			for after := time.Duration(0); ; after += time.Second {
				p.grow(100*mib + int64(after/time.Second)*test.grows)
				if due(after) {
					if after != test.want {
						t.Errorf("due after %v, not %v", after, test.want)
					}
					return
				}
				if after > 2*growingRaises {
					t.Fatal("never due")
				}
			}
		})
	}
	l.untold[c] = untold{since: begin}
	c.cgroup = map[string]string{"memory": t.TempDir()}
	if !due(time.Second) {
		t.Error("a container whose memory cannot be read is never due")
	}
}

// A change that leaves a predicted limit is made also if that is raised in the midst of it; one that moves it has to be what the kernel has.
func TestLimitRaisedMeanwhile(t *testing.T) {
	p := newPretend(t, t.TempDir(), true, 250*mib, 100*mib)
	policyOf := func(n int64, by policy.Author) policy.Effective {
		return policy.Effective{}.Put(policy.Field{Key: policy.KeyMemory, Value: policy.Value(n), Origin: policy.Origin{Author: by}})
	}
	table := plain()
	f, c, drill := predicted(t, p, &table)
	for name, test := range map[string]struct {
		before, after policy.Effective
		keeps         bool
	}{
		"the same":         {policyOf(200*mib, policy.Prediction), policyOf(200*mib, policy.Prediction), true},
		"a higher one":     {policyOf(200*mib, policy.Prediction), policyOf(240*mib, policy.Prediction), false},
		"a lower one":      {policyOf(300*mib, policy.Prediction), policyOf(240*mib, policy.Prediction), false},
		"an operator's":    {policyOf(200*mib, policy.Prediction), policyOf(240*mib, policy.Operator), false},
		"no predicted one": {policyOf(200*mib, policy.Operator), policyOf(240*mib, policy.Operator), false},
	} {
		c.updating.Lock()
		over := f.service.changing(c)
		kept := f.service.keepLimit(c, test.before, test.after)
		drill.sees(c.airbag, func(_ *sentry, g *guard) {
			if kept != test.keeps || g.keeps != test.keeps {
				t.Errorf("%s: kept %v, by the sentry %v", name, kept, g.keeps)
			}
		})
		over()
		c.updating.Unlock()
		if err := inForce(p.group(), test.after, kept); (err == nil) != test.keeps {
			t.Errorf("%s, and the kernel has 250 MiB: %v", name, err)
		}
	}
	if err := inForce(p.group(), policyOf(300*mib, policy.Prediction), true); err == nil {
		t.Error("the kernel has less than was to be in force, and nobody says so")
	}
}

// What is held is an event and no revision; what was told of a limit that is somebody else's by now is none.
func TestLedgerOfWhatIsHeld(t *testing.T) {
	p := newPretend(t, t.TempDir(), false, 200*mib, 100*mib)
	table := plain()
	table.Held = "the risk is high"
	f, c, sentry := predicted(t, p, &table)
	p.grow(190 * mib)
	sentry.ring(c.airbag)
	var held []api.Event
	soon(t, "an event", func() bool { held = f.told(api.EventHeld); return len(held) == 1 })
	if e := held[0]; !strings.Contains(e.Message, "memory limit stays at 200 MiB although 190 MiB are in use: the risk is high") || c.current().Revision != 1 {
		t.Errorf("revision %d, %+v", c.current().Revision, e)
	}
	b := c.airbag
	c.updating.Lock()
	over := f.service.changing(c)
	d := c.current()
	d.Revision++
	d.Effective = d.Effective.Put(policy.Field{Key: policy.KeyMemory, Value: 300 * mib, Origin: policy.Origin{Author: policy.Operator}})
	d.Airbag = nil
	c.put(d)
	p.setLimit(300 * mib)
	over()
	if c.airbag != nil || p.high() != 0 {
		t.Errorf("an operator's limit is watched, memory.high is %d MiB", p.high())
	}
	f.service.ledger.hear(b, raising{at: time.Now(), from: 200 * mib, to: 300 * mib})
	f.service.enter(c)
	c.updating.Unlock()
	if n := len(f.told(api.EventRaised)); n != 0 || c.current().Revision != 2 {
		t.Errorf("%d raises of an operator's limit, revision %d", n, c.current().Revision)
	}
}

// A predicted limit that cannot be watched is lifted, for nobody would raise it in time, and an event says so.
func TestLedgerOfWhatCannotBeWatched(t *testing.T) {
	for name, c := range map[string]struct {
		table *api.Airbag
		to    int64
		fails bool
		says  string
	}{
		"no table":                {nil, -1, false, "memory limit 200 MiB -> unlimited: it can no longer be raised when it has to be (the decision says nothing of how to raise it)"},
		"no group":                {&api.Airbag{Predicted: 200 * mib, Ceiling: 900 * mib}, 900 * mib, false, "memory limit 200 MiB -> 900 MiB: it can no longer be raised"},
		"and runc does not do it": {&api.Airbag{Predicted: 200 * mib, Ceiling: 900 * mib}, 900 * mib, true, "memory limit of 200 MiB can no longer be raised when it has to be"},
	} {
		t.Run(name, func(t *testing.T) {
			f, k := supervised(t)
			var asked int64
			f.inner.update = func(r *taskv3.UpdateTaskRequest) error {
				var res specs.LinuxResources
				_ = json.Unmarshal(r.Resources.Value, &res)
				asked = *res.Memory.Limit
				if c.fails {
					return errors.New("no")
				}
				return nil
			}
			d := k.current()
			d.Effective = d.Effective.Put(policy.Field{Key: policy.KeyMemory, Value: 200 * mib, Origin: policy.Origin{Author: policy.Prediction}})
			d.Airbag = c.table
			k.updating.Lock()
			k.put(d)
			k.cgroup = map[string]string{"memory": t.TempDir() + "/none"}
			f.service.fitAirbag(k)
			k.updating.Unlock()
			said := func() bool {
				return slices.ContainsFunc(f.told(api.EventDegraded), func(e api.Event) bool { return strings.Contains(e.Message, c.says) })
			}
			soon(t, "an event", said)
			if asked != c.to || k.airbag != nil {
				t.Errorf("asked for %d", asked)
			}
		})
	}
}

// Two raises that are written down at once are two revisions, in order.
func TestLedgerKeepsOrder(t *testing.T) {
	p := newPretend(t, t.TempDir(), false, 200*mib, 100*mib)
	table := plain()
	f, c, sentry := predicted(t, p, &table)
	c.updating.Lock() // nobody writes meanwhile
	for _, need := range []int64{190, 250, 310} {
		p.grow(need * mib)
		sentry.ring(c.airbag)
	}
	if c.current().Revision != 1 {
		t.Errorf("revision %d while somebody else decides", c.current().Revision)
	}
	over := f.service.changing(c) // of that what the airbag did is a part
	d := c.current()
	over()
	c.updating.Unlock()
	if d.Revision != 4 || len(d.Changes) != 3 || d.Effective.Value(policy.KeyMemory, 0) != policy.Value(p.limit()) {
		t.Errorf("revision %d: %+v", d.Revision, d.Changes)
	}
	var raised []api.Event
	soon(t, "three events", func() bool { raised = f.told(api.EventRaised); return len(raised) == 3 })
	for i, e := range raised {
		if e.Fields["revision"] != string(rune('2'+i)) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
}

// TestChangeOfAFreshContainer: a change that comes while a container's predicted limit is about to be watched does not have it watched twice, of
// which only one would end when somebody else sets the limit.
func TestChangeOfAFreshContainer(t *testing.T) {
	p := newPretend(t, t.TempDir(), false, 200*mib, 100*mib)
	table := plain()
	f, c, sentry := predicted(t, p, &table)
	c.end()
	sentry.disarm(c)
	c.airbag, c.watch = nil, nil
	exec := policy.Field{Key: policy.KeyExec, Value: policy.Tight, Origin: policy.Origin{Author: policy.Operator, Source: "test"}}
	before := c.current()
	after := before
	after.Revision++
	after.Effective = before.Effective.Put(exec)

	sentry.airbags.mu.Lock() // it takes a while
	var both sync.WaitGroup
	watched := make(chan struct{})
	both.Go(func() {
		close(watched)
		f.service.follow(c, p.group())
	})
	both.Go(func() {
		<-watched
		for {
			resp, err := adapter{f.service}.Adapt(f.ctx, api.AdaptRequest{
				Version: api.Version, Oldest: api.Oldest, ID: c.id, Run: before.Facts.Run, Before: before.Revision, After: after,
			})
			if errdefs.IsNotFound(err) {
				time.Sleep(time.Millisecond) // nothing is known of it yet
				continue
			}
			if err != nil || resp.Decision.Revision != after.Revision {
				t.Errorf("%+v, %v", resp, err)
			}
			return
		}
	})
	time.Sleep(50 * time.Millisecond)
	sentry.airbags.mu.Unlock()
	both.Wait()
	sentry.airbags.mu.Lock()
	defer sentry.airbags.mu.Unlock()
	bags := 0
	for _, b := range sentry.bags {
		if b != nil {
			bags++
		}
	}
	if bags != 1 || c.airbag == nil {
		t.Errorf("%d airbags of one container", bags)
	}
}

// TestRecordOfARaise: a record that was put together before a raise, and is written beside it (that of another agent, say), does not take the
// place of that of the raise.
func TestRecordOfARaise(t *testing.T) {
	p := newPretend(t, t.TempDir(), false, 200*mib, 100*mib)
	table := plain()
	f, c, _ := predicted(t, p, &table)
	c.saving.Lock() // as save does
	older := c.record()
	stale := *older.Decision
	older.Decision = &stale
	raised := make(chan struct{})
	go func() {
		defer close(raised)
		c.updating.Lock()
		defer c.updating.Unlock()
		f.service.moved(c, c.current(), raising{at: time.Now(), from: 200 * mib, to: 300 * mib})
	}()
	select {
	case <-raised:
	case <-time.After(50 * time.Millisecond):
	}
	if err := f.cfg.Containers.Write(older); err != nil {
		t.Fatal(err)
	}
	c.saving.Unlock()
	<-raised
	r, err := f.cfg.Containers.Read(c.id)
	if err != nil || r.Decision.Revision != 2 || r.Decision.Effective.Value(policy.KeyMemory, 0) != 300*mib {
		t.Errorf("recorded is revision %d, %v", r.Decision.Revision, err)
	}
}
