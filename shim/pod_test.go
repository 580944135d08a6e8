package shim

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// TestAsking: the agent's word on who asks counts among the containers of its pod, and nowhere else.
func TestAsking(t *testing.T) {
	of := func(id string) *container { return &container{id: workload.ID{Namespace: "k8s.io", Container: id}} }
	sandbox, web, batch := of("sandbox"), of("web"), of("batch")
	for name, c := range map[string]struct {
		seat *seat
		says string
		want []*container
	}{
		"no pod":               {&seat{c: web}, "batch", []*container{web}},
		"one that it names":    {&seat{c: sandbox, pod: true, members: []*container{web, batch}}, "batch", []*container{batch}},
		"the sandbox itself":   {&seat{c: sandbox, pod: true, members: []*container{web}}, "sandbox", []*container{sandbox}},
		"one that is not here": {&seat{c: sandbox, pod: true, members: []*container{web, batch}}, "stranger", []*container{web, batch}},
		"nobody is named":      {&seat{c: sandbox, pod: true, members: []*container{web}}, "", []*container{web}},
		"the sandbox is alone": {&seat{c: sandbox, pod: true}, "", []*container{sandbox}},
	} {
		got := c.seat.asking(c.says)
		same := len(got) == len(c.want)
		for i := range got {
			same = same && got[i] == c.want[i]
		}
		if !same {
			t.Errorf("%s: %d containers", name, len(got))
		}
	}
}

func TestFlowsOf(t *testing.T) {
	all := json.RawMessage(`[{"id":1,"context":{"container":"web"}},{"id":2,"context":{"container":"batch"}},{"id":3,"context":{}}]`)
	if got, err := flowsOf(all, "batch"); err != nil || string(got) != `[{"id":2,"context":{"container":"batch"}}]` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := flowsOf(all, "none"); err != nil || string(got) != `[]` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := flowsOf(json.RawMessage(`{}`), "web"); err == nil {
		t.Error("an answer that makes no sense was taken")
	}
}

// naming is an Egress whose settings name, for each container, the hosts that it may not contact.
type naming struct{ Egress }

func (naming) Settings(own EgressContainer, pod []EgressContainer) json.RawMessage {
	blocked := make(map[string][]string)
	for _, c := range append([]EgressContainer{own}, pod...) {
		blocked[c.Base.Container] = c.Rules.BlockNames
	}
	body, err := json.Marshal(blocked)
	if err != nil {
		panic(err)
	}
	return body
}

// heeding is an agent that goes by the settings that it was given last, and may be slow about the first.
type heeding struct {
	Agent
	slow, goOn chan struct{} // nil: it is not
	called     atomic.Bool

	mu  sync.Mutex
	has string // guarded by mu
}

func (h *heeding) Settings(_ context.Context, settings json.RawMessage) error {
	if h.slow != nil && h.called.CompareAndSwap(false, true) {
		h.slow <- struct{}{}
		<-h.goOn
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.has = string(settings)
	return nil
}

func (h *heeding) Close() {}

func (h *heeding) heeds() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.has
}

// podOf is a pod with an agent, and the lever of its containers' network.
func podOf(agent Agent) (lever networkLever, sandbox, web, batch *container) {
	s := &Service{cfg: Config{Egress: naming{}}, reporter: &reporter{wake: make(chan struct{}, 1)}}
	s.epochs = newEpochs(s)
	of := func(name string) *container {
		c := &container{id: workload.ID{Namespace: "k8s.io", Container: name}, gate: &fakeGate{}}
		c.agent = &seat{s: s, c: c, pod: true, tried: make(chan struct{}), over: make(chan struct{})}
		c.agent.ctx, c.agent.giveUp = context.WithCancel(context.Background())
		return c
	}
	sandbox, web, batch = of("sandbox"), of("web"), of("batch")
	sandbox.agent.egress, sandbox.agent.agent, sandbox.agent.members = true, agent, []*container{web, batch}
	s.sandbox.Store(sandbox.agent)
	return networkLever{s}, sandbox, web, batch
}

func withoutHost(host string) policy.Effective {
	return merged(by(policy.Operator, policy.KeyEgress.Member(host), policy.Tight))
}

const bothBlocked = `{"batch":["b.example"],"sandbox":null,"web":["w.example"]}`

// TestPodKeepsAllRules: what one container of a pod is held to is not forgotten when another one's rules change before the first decision says
// so, nor when both change at once.
func TestPodKeepsAllRules(t *testing.T) {
	for name, agent := range map[string]*heeding{
		"one after the other": {},
		"at once":             {slow: make(chan struct{}), goOn: make(chan struct{})},
	} {
		t.Run(name, func(t *testing.T) {
			lever, _, web, batch := podOf(agent)
			var both sync.WaitGroup
			move := func(c *container, host string) {
				if _, err := lever.move(t.Context(), c, merged(), withoutHost(host), manner{}); err != nil {
					t.Error(err)
				}
			}
			if agent.slow == nil {
				move(web, "w.example")
				move(batch, "b.example")
			} else {
				both.Go(func() { move(web, "w.example") })
				<-agent.slow
				second := make(chan struct{})
				both.Go(func() { move(batch, "b.example"); close(second) })
				select {
				case <-second:
				case <-time.After(50 * time.Millisecond):
				}
				close(agent.goOn)
				both.Wait()
			}
			if got := agent.heeds(); got != bothBlocked {
				t.Errorf("the agent goes by %s", got)
			}
			lever, _, web, batch = podOf(agent) // a change that is taken back, or a container that has ended, leaves nothing
			undo, err := lever.move(t.Context(), web, merged(), withoutHost("w.example"), manner{})
			if err != nil {
				t.Fatal(err)
			}
			move(batch, "b.example")
			if err := undo(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := agent.heeds(); got != `{"batch":["b.example"],"sandbox":null,"web":null}` {
				t.Errorf("after a change that was taken back the agent goes by %s", got)
			}
			lead := batch.agent.leading()
			lead.part(batch)
			if len(lead.rules) != 1 {
				t.Errorf("rules of %d containers are kept", len(lead.rules))
			}
		})
	}
}

// starting is an injection during which something happens: the agent has its first settings, and is not known yet.
type starting struct {
	agent *heeding
	while func()
}

func (s starting) Inject(_ context.Context, t AgentTarget) (Agent, error) {
	_ = s.agent.Settings(context.Background(), t.Intercept.Settings())
	s.while()
	return s.agent, nil
}

// TestRulesDuringAnInjection: an agent that starts while the rules change goes by the new ones.
func TestRulesDuringAnInjection(t *testing.T) {
	agent := &heeding{}
	lever, sandbox, web, batch := podOf(nil)
	a := sandbox.agent
	a.members = []*container{web}
	lever.s.cfg.Agents = starting{agent, func() {
		if _, err := lever.move(t.Context(), web, merged(), withoutHost("w.example"), manner{}); err != nil {
			t.Error(err)
		}
		a.join(t.Context(), batch)
		if _, err := lever.move(t.Context(), batch, merged(), withoutHost("b.example"), manner{}); err != nil {
			t.Error(err)
		}
	}}
	if !a.inject() {
		t.Fatal("no agent")
	}
	if got := agent.heeds(); got != bothBlocked {
		t.Errorf("the agent goes by %s", got)
	}
}
