package shim

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// fakeGate notes what it is told.
type fakeGate struct {
	set []GateRules
	err error
}

func (g *fakeGate) Set(r GateRules) error {
	if g.err == nil {
		g.set = append(g.set, r)
	}
	return g.err
}
func (*fakeGate) Frames() error { return nil }
func (*fakeGate) Close() error  { return nil }

func merged(claims ...policy.Claim) policy.Effective {
	return policy.Merge(policy.Input{Claims: claims})
}

func by(a policy.Author, k policy.Key, v policy.Value) policy.Claim {
	return policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: a, Source: "test"}}
}

func TestRulesOfAPolicy(t *testing.T) {
	r := rulesOf(merged())
	if r.Off || r.Closed || r.BlockListed || !r.WatchListed || r.restricts() {
		t.Errorf("where nobody decides: %+v", r)
	}
	r = rulesOf(merged(by(policy.Operator, policy.KeyNetwork, policy.Tight), by(policy.Operator, policy.KeyEgressDefault, policy.Tight),
		by(policy.Operator, policy.KeyEgressFeeds, policy.FeedsBlock), by(policy.Operator, "egress/10.0.0.0/8", policy.Loose),
		by(policy.Operator, "egress/192.0.2.1", policy.Tight), by(policy.Operator, "egress/nonsense", policy.Tight)))
	want := GateRules{Off: true, Closed: true, WatchListed: true, BlockListed: true,
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Block: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}}
	if r.Off != want.Off || r.Closed != want.Closed || r.BlockListed != want.BlockListed || !slices.Equal(r.Allow, want.Allow) || !slices.Equal(r.Block, want.Block) {
		t.Errorf("%+v, want %+v", r, want)
	}
	if r := rulesOf(merged(by(policy.Operator, policy.KeyEgressFeeds, policy.FeedsOff))); r.WatchListed {
		t.Errorf("%+v", r)
	}
}

func TestNetworkLever(t *testing.T) {
	off := merged(by(policy.Operator, policy.KeyNetwork, policy.Tight))
	lever := networkLever{}
	for name, test := range map[string]struct {
		c             *container
		before, after policy.Effective
		says          string // refused with it
	}{
		"no gate":         {&container{gateless: errors.New("no cgroup of its own")}, merged(), off, "no cgroup of its own"},
		"host network":    {&container{gate: &fakeGate{}, decision: api.Decision{Facts: workload.Facts{HostNetwork: true}}}, merged(), off, "uses the host's"},
		"created without": {&container{gate: &fakeGate{}, offline: true}, off, merged(), "created without one"},
		"off":             {&container{gate: &fakeGate{}}, merged(), off, ""},
		"host, not the network": {&container{gate: &fakeGate{}, decision: api.Decision{Facts: workload.Facts{HostNetwork: true}}}, merged(),
			merged(by(policy.Operator, "egress/192.0.2.1", policy.Tight)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			undo, err := lever.move(t.Context(), test.c, test.before, test.after, manner{})
			if test.says != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), test.says) {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := undo(t.Context()); err != nil {
				t.Error(err)
			}
			if set := test.c.gate.(*fakeGate).set; len(set) != 2 || set[1].restricts() {
				t.Errorf("%+v", set)
			}
		})
	}
}

// TestAGateThatIsMissing: what somebody demands of it fails the container, what a prediction wanted is left out, with a note.
func TestAGateThatIsMissing(t *testing.T) {
	f := newFixture(t, testSpec, unavailableOpen)
	for name, test := range map[string]struct {
		effective policy.Effective
		fails     bool
	}{
		"nothing demanded": {merged(), false},
		"off by request":   {merged(by(policy.Request, policy.KeyNetwork, policy.Tight)), true},
		"a closed default": {merged(by(policy.Default, policy.KeyEgressDefault, policy.Tight)), true},
		"predicted":        {merged(by(policy.Prediction, policy.KeyNetwork, policy.Tight), by(policy.Prediction, policy.KeyEgressDefault, policy.Tight)), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := &container{decision: api.Decision{Effective: test.effective}}
			err := f.service.openGate(c, cgroup.Group{})
			if (err != nil) != test.fails || err != nil && !errdefs.IsFailedPrecondition(err) {
				t.Fatal(err)
			}
			if r := rulesOf(c.current().Effective); !test.fails && r.restricts() {
				t.Errorf("the policy says what does not hold: %+v", r)
			}
			if notes := c.current().Notes; (name == "predicted") != (len(notes) == 2) {
				t.Errorf("notes %q", notes)
			}
		})
	}
}

func TestWhoseRefusalItWas(t *testing.T) {
	e := merged(by(policy.Operator, "egress/192.0.2.0/24", policy.Tight), by(policy.Operator, "egress/192.0.0.0/16", policy.Tight), by(policy.Request, policy.KeyEgressDefault, policy.Tight))
	for _, test := range []struct {
		p    Passage
		want string
	}{
		{Passage{Destination: "tcp/192.0.2.1:80", Refused: true, Why: "blocked"}, "blocked by egress/192.0.2.0/24 = blocked by operator (test)"},
		{Passage{Destination: "udp/198.51.100.1:53", Refused: true, Why: "not allowed"}, "egress.default = closed by request (test)"},
		{Passage{Destination: "tcp/192.0.2.1:80", Refused: true, Listed: true, Why: "listed"}, "a threat feed lists it, listed"},
	} {
		if got := whyRefused(e, test.p); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	var p passages
	for range 2 {
		p.add(Passage{Destination: "tcp/192.0.2.1:80", Refused: true})
	}
	p.add(Passage{Destination: "tcp/203.0.113.1:80", Listed: true, Packets: 7})
	var o workload.Observation
	if p.describe(&o); o.Refused["tcp/192.0.2.1:80"] != 2 || o.Destinations["tcp/203.0.113.1:80"] != 7 {
		t.Errorf("%+v", o)
	}
	for i := range 2 * workload.MaxDestinations {
		p.add(Passage{Destination: string(rune(i + 1)), Refused: true})
	}
	if p.describe(&o); len(o.Refused) != workload.MaxDestinations || o.RefusedLost == 0 {
		t.Errorf("%d refused, %d lost", len(o.Refused), o.RefusedLost)
	}
}
