package shim

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// counting is an agent with accounts, and what it was asked with.
type counting struct {
	Agent
	pages []flow.Accounts
	asked [][2]uint64
	body  string // instead of a page
}

func (c *counting) Accounts(_ context.Context, next, live uint64) (json.RawMessage, error) {
	c.asked = append(c.asked, [2]uint64{next, live})
	if c.body != "" {
		return json.RawMessage(c.body), nil
	}
	page := c.pages[0]
	if len(c.pages) > 1 {
		c.pages = c.pages[1:]
	}
	return json.Marshal(page)
}

// comparing is tunneld as far as accounts go.
type comparing struct {
	Egress
	got    []api.ReconcileRequest
	answer api.Reconciled
	failed error
}

func (c *comparing) Reconcile(_ context.Context, r api.ReconcileRequest) (api.Reconciled, error) {
	c.got = append(c.got, r)
	return c.answer, c.failed
}

func newAudited(agent Agent, e Egress) *seat {
	s := &Service{cfg: Config{Egress: e}, reporter: &reporter{wake: make(chan struct{}, 1)}}
	c := &container{id: workload.ID{Namespace: "ns", Container: "c"}, urgent: newUrgency()}
	a := &seat{s: s, c: c, agent: agent, egress: true, guarded: 42}
	a.ctx, a.giveUp = context.WithCancel(context.Background())
	return a
}

// TestReconcile has all pages of accounts compared, by the shim's own word for when they were read and who counts.
func TestReconcile(t *testing.T) {
	lies := time.Unix(1, 0)
	agent := &counting{pages: []flow.Accounts{{Since: lies, At: lies, Next: 3, Live: 9, More: true}, {Since: lies, At: lies, Next: 4}}}
	tunneld := &comparing{}
	a := newAudited(agent, tunneld)
	began := time.Now()
	a.audit.start(began)
	if _, err := a.reconcile(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.reconcile(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	a.audit.start(began.Add(time.Second)) // another agent, which begins to count anew
	if _, err := a.reconcile(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if want := [][2]uint64{{0, 0}, {3, 9}, {4, 0}, {0, 0}}; len(agent.asked) != len(want) || agent.asked[1] != want[1] || agent.asked[2] != want[2] || agent.asked[3] != want[3] {
		t.Errorf("asked with %v, not %v", agent.asked, want)
	}
	for i, r := range tunneld.got {
		if r.Namespace != 42 || r.Accounts.At.Before(began) || !r.Accounts.Since.Equal(a.audit.of) && i == 3 || r.All != (i < 2) {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if first, second := tunneld.got[0].Accounts, tunneld.got[1].Accounts; !first.At.Equal(second.At) || !first.More || second.More {
		t.Errorf("pages of one round: %+v, %+v", first, second)
	}
}

func TestReconcileFails(t *testing.T) {
	for name, a := range map[string]*seat{
		"agent":   newAudited(&counting{body: `"accounts"`}, &comparing{}),
		"tunneld": newAudited(&counting{pages: []flow.Accounts{{}}}, &comparing{failed: errors.New("away")}),
	} {
		if _, err := a.reconcile(t.Context(), false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := newAudited(nil, &comparing{}).reconcile(t.Context(), false); err != nil { // there is nothing to compare
		t.Error(err)
	}
}

// TestAccuse has faults counted, told with both counts, and not told without end.
func TestAccuse(t *testing.T) {
	v := flow.Verdict{Local: netip.MustParseAddrPort("10.8.0.2:4000"), Remote: netip.MustParseAddrPort("192.0.2.1:443"), Tunnel: "far", Standing: flow.Differs,
		Why: "the gateway counts more than was sent", Cut: true, Account: &flow.Account{Sent: 1000, Acked: 990, Received: 5},
		Receipt: &flow.Receipt{Serial: 77, Bytes: 2000, Packets: 3, BytesBack: 60, PacketsBack: 1}}
	text := accusation(&v)
	for _, part := range []string{"10.8.0.2:4000 to 192.0.2.1:443", "tunnel far", v.Why, "1000 bytes sent, 990", "receipt 77", "2000 bytes in 3 packets", "it was ended"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
	six := flow.Verdict{Local: netip.MustParseAddrPort("[fd08::2]:4000"), Remote: netip.MustParseAddrPort("[2001:db8::1]:443"), Tunnel: "far", Standing: flow.Differs}
	if got := accusation(&six); !strings.Contains(got, "[fd08::2]:4000 to [2001:db8::1]:443") || evidenceOf(&six)["remote"] != "[2001:db8::1]:443" {
		t.Errorf("over IPv6: %q, %v", got, evidenceOf(&six))
	}
	forged := flow.Verdict{Tunnel: "far", Standing: flow.Forged, Why: "tunnel far: forged"}
	if got := accusation(&forged); got != forged.Why {
		t.Errorf("told as %q", got)
	}
	queries := flow.Verdict{Protocol: 17, Remote: netip.MustParseAddrPort("192.0.2.53:53"), Tunnel: "far", Standing: flow.Differs, Why: "less", Account: &flow.Account{Sent: 30, Received: 90}}
	if got := accusation(&queries); got != "datagrams to 192.0.2.53:53 by tunnel far: less; the agent counts 30 bytes sent and 90 received" {
		t.Errorf("told as %q", got)
	}
	if f := evidenceOf(&queries); f["remote"] != "192.0.2.53:53" || f["local"] != "" {
		t.Errorf("%v", f)
	}
	strange := flow.Verdict{Protocol: 1, Local: netip.MustParseAddrPort("10.8.0.2:0"), Remote: netip.MustParseAddrPort("192.0.2.1:0"), Tunnel: "far", Standing: flow.Unclaimed, Why: "more"}
	if got := accusation(&strange); got != "packets of IP protocol 1 to 192.0.2.1 by tunnel far: more" {
		t.Errorf("told as %q", got)
	}
	a := newAudited(nil, nil)
	many := api.Reconciled{Left: 3}
	for range maxTold + 5 {
		many.Faults = append(many.Faults, v)
	}
	a.c.decision = api.Decision{}
	a.accuse(&many)
	a.accuse(&api.Reconciled{Left: 4})
	if n := a.c.faults.counts()[workload.ReceiptFault+"differs"]; n != maxTold+5 || len(a.s.reporter.events) != maxTold+2 {
		t.Errorf("%d faults, %d events", n, len(a.s.reporter.events))
	}
	select {
	case <-a.c.urgent:
	default:
		t.Error("it waits for the next checkpoint")
	}
	if f := evidenceOf(&v); f["standing"] != "differs" || f["cut"] != "true" || f["local"] == "" || evidenceOf(&forged)["local"] != "" {
		t.Errorf("%v, %v", f, evidenceOf(&forged))
	}
}

// TestAccuseInAPod has a fault count against the container whose connection it is, or against all but the sandbox where nobody knows.
func TestAccuseInAPod(t *testing.T) {
	for name, c := range map[string]struct {
		account *flow.Account
		accused []string
	}{
		"of one":                   {&flow.Account{Container: "web"}, []string{"web"}},
		"of one that is not of it": {&flow.Account{Container: "other"}, []string{"web", "log"}},
		"nobody's":                 {nil, []string{"web", "log"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAudited(nil, nil)
			a.pod = true
			for _, id := range []string{"web", "log"} {
				a.members = append(a.members, &container{id: workload.ID{Namespace: "ns", Container: id}, urgent: newUrgency()})
			}
			a.accuse(&api.Reconciled{Faults: []flow.Verdict{{Protocol: 6, Tunnel: "far", Standing: flow.Astray, Account: c.account}}})
			var accused, told []string
			for _, of := range a.sharing() {
				if of.faults.counts()[workload.ReceiptFault+"astray"] == 1 && len(of.urgent) == 1 {
					accused = append(accused, of.id.Container)
				}
			}
			for _, e := range a.s.reporter.events {
				told = append(told, e.ID.Container)
			}
			if !slices.Equal(accused, c.accused) || !slices.Equal(told, c.accused) {
				t.Errorf("accused %v, told of %v, not %v", accused, told, c.accused)
			}
		})
	}
}
