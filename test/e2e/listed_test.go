package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestEgressListed: threat feeds hold for what a container sends by its interceptor, whatever rules let out: contacts are reported by
// default, refused where the policy says so, and let pass where an address is an exception.
func TestEgressListed(t *testing.T) {
	feeds, rules := t.TempDir(), t.TempDir()
	write(t, filepath.Join(feeds, "bad.txt"), "203.0.113.0/24\n")
	write(t, filepath.Join(rules, "all.toml"), "[[rule]]\nname = \"all\"\nwhen = \"true\"\ntunnel = { encryption = \"none\" }\n")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("mode = \"observe\"\n[threats]\nfeeds = [%q]\n[egress]\nrules = %q\ndecide_within = \"2s\"\n"+
		"[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n", feeds, rules)))
	o := newOutside(t)
	reached := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "feeds in the kernel", func() bool { return strings.Contains(h.Forefend("threat", "list").Stdout, "\nin force in the kernel") })
	wants := func(why string, listed bool) {
		t.Helper()
		if got := h.fetch(id, "198.51.100.1"); got != "direct" {
			t.Errorf("%s: an address that no feed lists: %q", why, got)
		}
		before := reached.Load()
		got := h.fetch(id, "203.0.113.1")
		if went := reached.Load() != before; went != listed || (got == "direct") != listed {
			t.Errorf("%s: a listed address: %q, reached: %t, want %t", why, got, went, listed)
		}
	}
	wants("watched", true)
	eventually(t, "event threat", func() bool {
		return slices.ContainsFunc(h.events(t, id), func(e event) bool {
			return e.Kind == "threat" && strings.Contains(e.Message, "contact with tcp/203.0.113.1:"+harness.WebPort)
		})
	})
	h.adjust(t, "set", id, "egress.feeds=block")
	wants("blocked", false)
	h.adjust(t, "set", id, "egress.allow=203.0.113.1") // a false alarm
	wants("an exception", true)
	h.adjust(t, "unset", id, "egress.allow")
	wants("no exception any more", false)
	h.killAgent(t, id)
	eventually(t, "requests by the next agent", func() bool { return h.fetch(id, "198.51.100.1") == "direct" })
	wants("blocked under the next agent", false)
	h.remove(id)
}
