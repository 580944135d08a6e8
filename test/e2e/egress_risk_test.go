package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestEgressRisk: what a container is caught at moves its requests to the inspection tunnel, and has a rule that asks for its risk refuse
// some of them; as its risk falls, both are as before.
func TestEgressRisk(t *testing.T) {
	feeds, rules := t.TempDir(), t.TempDir()
	write(t, filepath.Join(feeds, "bad.txt"), "203.0.113.0/24\n")
	write(t, filepath.Join(rules, "routes.toml"), `
[[rule]]
name = "public"
when = 'data == "public"'
tunnel = { encryption = "none" }
[[rule]]
name = "secrets of the trusted"
when = 'data == "secret" && risk < 60'
tunnel = { encryption = "none" }
`)
	inspection := newGateway(t, "inspection", "standard")
	// Nothing but its tunnel changes: the node observes, and forgives after some seconds, in which two requests are made.
	h := newHost(t, harness.WithConfig(fmt.Sprintf("mode = \"observe\"\n[scan]\nenabled = false\n[threats]\nfeeds = [%q]\n[safeguards]\ncalm = \"12s\"\n"+
		"[egress]\nrules = %q\ndecide_within = \"2s\"\ninspect = [{ risk = 60, endpoint = \"inspection\" }]\n[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n", feeds, rules)+inspection.Config))
	o := newOutside(t)
	direct := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "feeds in the kernel", func() bool { return strings.Contains(h.Forefend("threat", "list").Stdout, "\nin force in the kernel") })
	public := func() string { return h.fetch(id, "198.51.100.1", "x-forefend-data: public") }
	secret := func() string { return h.fetch(id, "198.51.100.1", "x-forefend-data: secret") }
	if a, b := public(), secret(); a != "direct" || b != "direct" {
		t.Fatalf("of a container of no risk: %q, %q", a, b)
	}
	h.fetch(id, "203.0.113.1", "x-forefend-data: public") // listed
	eventually(t, "requests by the inspection tunnel", func() bool { return public() == "inspection" })
	before := direct.Load()
	if got := secret(); !strings.Contains(got, "403") {
		t.Errorf("what the rule lets only the trusted send: %q", got)
	}
	if got := public(); got != "inspection" || direct.Load() != before {
		t.Errorf("%q by a container at risk; %d requests beside the inspection tunnel", got, direct.Load()-before)
	}
	eventually(t, "requests by the uplink again", func() bool { return public() == "direct" && secret() == "direct" })
}
