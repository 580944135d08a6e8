package orchestrator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// suspicious is a Monitor that finds every container at a critical risk that falls to low after a minute.
type suspicious struct{ from time.Time }

func (m *suspicious) Watch(*workload.Observation, api.Decision, evidence.Findings) (evidence.Findings, []api.Event) {
	return evidence.Findings{}, nil
}

func (m *suspicious) Forget(string) {}

func (m *suspicious) Reassess(api.Decision, evidence.Findings) *evidence.Risk {
	if time.Since(m.from) < time.Minute {
		return &evidence.Risk{Score: 90, Level: evidence.Critical}
	}
	return &evidence.Risk{Score: 5, Level: evidence.Low}
}

// scripted is a Responder that wants pids at a critical risk and takes it back at a low one.
type scripted struct {
	mu     sync.Mutex
	set    bool     // guarded by mu
	failed []string // guarded by mu
	gone   []string // guarded by mu
}

func (r *scripted) Respond(_ api.Decision, risk evidence.Risk, _ time.Time) (resp Response) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resp.Again, resp.Reason = 10*time.Second, "because"
	switch high := risk.Level == evidence.Critical; {
	case high && !r.set:
		resp.Set, r.set = map[string]string{"pids": "1024"}, true
	case !high && r.set:
		resp.Unset, r.set = []string{"pids"}, false
	case !high:
		resp.Again = 0
	}
	return resp
}

func (r *scripted) Failed(run string, _ time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.set = append(r.failed, run), !r.set
}

func (r *scripted) Forget(run string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = append(r.gone, run)
}

// A report that raises the risk changes the policy at once, what fails is tried again, and what the risk no longer calls for
// is taken back although nothing is reported any more.
func TestRiskChangesTheRunningPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &scripted{}
		n := newNode(t, func(c *Config) {
			c.Now, c.Monitor, c.Responder = time.Now, &suspicious{time.Now()}, r
		})
		var mu sync.Mutex
		var asked []api.AdjustRequest
		var at []time.Duration
		began := time.Now()
		n.adjust = func(_ context.Context, req api.AdjustRequest) (api.AdjustResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			asked, at = append(asked, req), append(at, time.Since(began))
			switch len(asked) {
			case 1:
				return api.AdjustResponse{}, errors.New("its shim hangs")
			case 2:
				return api.AdjustResponse{Results: []api.Result{{Lever: "resources", Status: api.ResultFailed, Reason: "no"}}}, nil
			}
			return api.AdjustResponse{}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			_ = n.Run(ctx)
		}()
		n.admit(t, "web")
		if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{observation("web", false)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute) // of the bubble
		cancel()
		<-ran
		if want := []time.Duration{0, respondRetry, 2 * respondRetry, time.Minute}; !slices.Equal(at, want) {
			t.Fatalf("adjusted at %v, want %v", at, want)
		}
		for i, req := range asked {
			if req.Author != policy.Prediction || req.Source != SourceRisk || req.Reason != "because" || req.ID != containerID("web") ||
				(i < 3) != (req.Set["pids"] == "1024") || (i == 3) != slices.Equal(req.Unset, []string{"pids"}) {
				t.Errorf("request %d: %+v", i, req)
			}
		}
		if len(r.failed) != 2 || r.failed[0] != "web-1" {
			t.Errorf("failed %v", r.failed)
		}
		if !slices.Contains(n.journal.kinds(), api.EventRisk) {
			t.Errorf("nobody is told that the risk fell: %v", n.journal.kinds())
		}
		n.mu.Lock()
		n.dropLocked(containerID("web"))
		n.mu.Unlock()
		if len(r.gone) != 1 {
			t.Errorf("forgotten %v", r.gone)
		}
	})
}

// deliberate is a Monitor that finds a contact in every report, and takes its time to think about a container of which nothing is found.
type deliberate struct {
	suspicious
	thinks, answers chan struct{}
}

func (m *deliberate) Watch(*workload.Observation, api.Decision, evidence.Findings) (evidence.Findings, []api.Event) {
	return evidence.Findings{Contacts: []evidence.Contact{{}}}, nil
}

func (m *deliberate) Reassess(_ api.Decision, found evidence.Findings) *evidence.Risk {
	if !found.Empty() {
		return &evidence.Risk{Score: 90, Level: evidence.Critical}
	}
	close(m.thinks)
	<-m.answers
	return &evidence.Risk{Score: 5, Level: evidence.Low}
}

// A contact that is found while the risk of before is being worked out is not forgotten over it.
func TestRiskOfMeanwhile(t *testing.T) {
	m := &deliberate{thinks: make(chan struct{}), answers: make(chan struct{})}
	n := newNode(t, func(c *Config) { c.Monitor = m })
	d := n.admit(t, "web")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if is, ok := n.reassess(t.Context(), d.Facts.ID); ok {
			t.Errorf("responds to a risk of %v", is.risk)
		}
	}()
	<-m.thinks
	o := observation("web", false)
	n.watch(t.Context(), &o)
	close(m.answers)
	<-done
	if s, ok := n.Subject(d.Facts.ID); !ok || s.Risk != 90 {
		t.Errorf("%+v %t", s, ok)
	}
	if is, ok := n.reassess(t.Context(), d.Facts.ID); !ok || is.risk.Score != 90 {
		t.Errorf("the next time: %v %t", is.risk, ok)
	}
}

// collecting adds what it is told of to what it found before, and thinks about each report until it is told to go on.
type collecting struct {
	suspicious
	looking, goOn chan struct{}
}

func (m *collecting) Watch(o *workload.Observation, _ api.Decision, before evidence.Findings) (evidence.Findings, []api.Event) {
	m.looking <- struct{}{}
	<-m.goOn
	return before.With(evidence.Findings{Contacts: []evidence.Contact{{Destination: o.Name}}}), nil
}

func (m *collecting) Reassess(api.Decision, evidence.Findings) *evidence.Risk { return nil }

// Two reports of a container at once, of a shim that had a new connection, say: nothing that is found in one is forgotten over the other.
func TestReportsOfMeanwhile(t *testing.T) {
	m := &collecting{looking: make(chan struct{}, 2), goOn: make(chan struct{})}
	n := newNode(t, func(c *Config) { c.Monitor = m })
	d := n.admit(t, "web")
	var both sync.WaitGroup
	for _, name := range []string{"first", "second"} {
		o := observation("web", false)
		o.Name = name
		both.Go(func() { n.watch(t.Context(), &o) })
	}
	<-m.looking
	select {
	case <-m.looking:
		t.Error("both are looked at at once")
	case <-time.After(50 * time.Millisecond):
	}
	close(m.goOn)
	both.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.running[d.Facts.ID].found.Contacts; len(found) != 2 {
		t.Errorf("found %+v", found)
	}
}

// What a privileged container is left as it asked for is left while it runs too.
func TestRiskOfWhatIsLeftAsAsked(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Monitor, c.Responder = &suspicious{time.Now()}, &scripted{} })
	n.adjust = func(context.Context, api.AdjustRequest) (api.AdjustResponse, error) {
		t.Error("adjusted")
		return api.AdjustResponse{}, nil
	}
	d := n.admit(t, "web")
	d.AsAsked = true
	n.mu.Lock()
	n.running[d.Facts.ID].decision = d
	n.mu.Unlock()
	n.respondTo(t.Context(), d.Facts.ID)
	n.respondTo(t.Context(), containerID("nobody"))
}

// A container whose change takes long holds up no other, and itself is not looked at twice at once.
func TestResponsesTakeTurns(t *testing.T) {
	r := newResponses()
	a, b := containerID("a"), containerID("b")
	r.at(a, clock)
	r.at(b, clock.Add(time.Second))
	if ids, wait := r.take(clock, 8); len(ids) != 1 || ids[0] != a || wait != time.Second {
		t.Errorf("%v, %s", ids, wait)
	}
	r.at(a, clock)
	if ids, wait := r.take(clock, 8); len(ids) != 0 || wait != time.Second {
		t.Errorf("busy, and taken: %v, %s", ids, wait)
	}
	r.done(a)
	if ids, _ := r.take(clock.Add(2*time.Second), 8); len(ids) != 2 {
		t.Errorf("%v", ids)
	}
	if len(r.wake) != 1 {
		t.Error("nobody is woken")
	}
}

// measured is a Limiter that wants a limit that is another than it is, and growth to be held at a high risk.
type measured struct {
	mu   sync.Mutex
	seen []workload.Usage // guarded by mu
	gone []string         // guarded by mu
}

func (l *measured) Limit(d api.Decision, u workload.Usage, _ evidence.Findings, risk evidence.Risk, _ time.Time) (resp Response) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, u)
	held := string(risk.Level)
	return Response{Set: map[string]string{"memory": "96Mi"}, Held: &held, Reason: "calm"}
}

func (l *measured) Forget(run string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = append(l.gone, run)
}

// A predicted memory limit follows what is reported, whether risks change policies or not; what somebody else set does not.
func TestReportsMovePredictedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &measured{}
		n := newNode(t, func(c *Config) { c.Now, c.Monitor, c.Limiter = time.Now, &suspicious{time.Now()}, l })
		var mu sync.Mutex
		var asked []api.AdjustRequest
		n.adjust = func(_ context.Context, req api.AdjustRequest) (api.AdjustResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			if asked = append(asked, req); len(asked) == 1 {
				return api.AdjustResponse{}, errors.New("its shim hangs")
			}
			return api.AdjustResponse{}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			_ = n.Run(ctx)
		}()
		d := n.admit(t, "web")
		n.admit(t, "requested")
		n.mu.Lock()
		d.Airbag = &api.Airbag{Predicted: 64 << 20}
		n.running[d.Facts.ID].decision = d
		n.mu.Unlock()
		var reports []workload.Observation
		for _, name := range []string{"web", "requested"} {
			o := observation(name, false)
			o.Usage.MemoryNeed, o.Usage.Series = 48<<20, []workload.Point{{Seconds: 1}}
			reports = append(reports, o)
		}
		if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Observations: reports}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // of the bubble
		cancel()
		<-ran
		if len(asked) != 2 || len(l.seen) != 2 || l.seen[0].MemoryNeed != 48<<20 || l.seen[0].Series != nil {
			t.Fatalf("asked %+v, seen %+v", asked, l.seen)
		}
		for _, req := range asked { // the second because the first failed
			if req.ID != containerID("web") || req.Source != api.SourceAirbag || req.Author != policy.Prediction || req.Set["memory"] != "96Mi" || req.Held == nil || *req.Held != "critical" || req.Reason != "calm" {
				t.Errorf("asked %+v", req)
			}
		}
		n.mu.Lock()
		n.dropLocked(containerID("web"))
		n.mu.Unlock()
		if len(l.gone) != 1 {
			t.Errorf("forgotten %v", l.gone)
		}
	})
}

// Only a prediction may say that growth is an anomaly, and not at any length.
func TestWhoMayHoldGrowth(t *testing.T) {
	n := newNode(t, nil)
	long := string(make([]byte, 1<<10+1))
	short := "because"
	for _, req := range []api.AdjustRequest{
		{Version: api.Version, ID: containerID("web"), Author: policy.Operator, Held: &short},
		{Version: api.Version, ID: containerID("web"), Author: policy.Request, Held: &short},
		{Version: api.Version, ID: containerID("web"), Author: policy.Prediction, Held: &long},
	} {
		if _, err := n.Adjust(t.Context(), req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", req.Author, err)
		}
	}
}
