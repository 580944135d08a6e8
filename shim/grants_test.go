package shim

import (
	"strconv"
	"testing"

	"forefend.dev/forefend/netns/flow"
)

// TestGrants: a way is given by a decision alone, for its container and user, and what is in use is not forgotten.
func TestGrants(t *testing.T) {
	var g grants
	strong := flow.Profile{Encryption: flow.Strong, Endpoint: "eu", Rates: []flow.Rate{{Bytes: 1}}}
	own := flow.Profile{Encryption: flow.Strong, Dedicated: true}
	used := grantOf("web", "alice", strong)
	if g.has(used) {
		t.Error("without a decision")
	}
	g.give(used)
	g.give(grantOf("web", "alice", own))
	for name, c := range map[string]struct {
		of   grant
		want bool
	}{
		"as decided":          {used, true},
		"shared by users":     {grantOf("web", "bob", flow.Profile{Encryption: flow.Strong, Endpoint: "eu"}), true},
		"another's dedicated": {grantOf("web", "bob", own), false},
		"another container's": {grantOf("batch", "alice", strong), false},
		"a weaker one":        {grantOf("web", "alice", flow.Profile{Endpoint: "eu"}), false},
		"another endpoint":    {grantOf("web", "alice", flow.Profile{Encryption: flow.Strong, Endpoint: "us"}), false},
	} {
		if got := g.has(c.of); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for i := range 3 * mostGrants {
		g.give(grantOf("web", strconv.Itoa(i), own))
		if i%1000 == 0 && !g.has(used) {
			t.Fatalf("forgotten after %d others though it is in use", i)
		}
	}
	if g.has(grantOf("web", "0", own)) || len(g.young)+len(g.old) > 2*mostGrants {
		t.Errorf("%d are kept", len(g.young)+len(g.old))
	}
}
