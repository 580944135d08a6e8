package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/test/e2e/harness"
)

// namesRules let public reads of one domain out, and nothing of another be looked up.
const namesRules = `
[[rule]]
name = "files"
when = 'host.endsWith(".example") && data == "public"'
tunnel = { encryption = "none" }
[[rule]]
name = "no ads"
when = 'protocol == "dns" && host.endsWith(".ads.example")'
deny = true
`

// TestEgressNames: a container looks a name up and fetches by it, both as rules say.
func TestEgressNames(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/names.toml", []byte(namesRules), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, harness.WithConfig(fmt.Sprintf("[egress]\nrules = %q\ndecide_within = \"2s\"\nresolvers = [\"198.51.100.1\"]\n"+
		"[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n", rules)))
	o := newOutside(t)
	reached := web(t, o.World, "direct")
	o.names(t, "--host-record=www.example,198.51.100.1,2001:db8::1", "--host-record=x.ads.example,198.51.100.1", "--host-record=www2.example,198.51.100.1")
	id, err := h.linked(t, o, sh(": fetches-by-name; sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if r := h.exec(id, "sh", "-c", "echo nameserver 198.51.100.1 > /etc/resolv.conf"); r.Check() != nil {
		t.Fatal(r)
	}
	if got := h.fetch(id, "www.example", "x-forefend-data: public"); got != "direct" {
		t.Errorf("by its name: %q", got)
	}
	if got := h.fetch(id, "x.ads.example", "x-forefend-data: public"); !strings.Contains(got, "bad address") {
		t.Errorf("a name that nobody may look up: %q", got)
	}
	// A host that no answer speaks for is a claim, which lowers nothing: the address of a name is one thing, what a request says another.
	if got := h.fetch(id, "198.51.100.1", "x-forefend-data: public", "Host: www.example"); got != "direct" {
		t.Errorf("a host that an answer speaks for: %q", got)
	}
	if got := h.fetch(id, "198.51.100.1", "x-forefend-data: public", "Host: other.example"); !strings.Contains(got, "403") {
		t.Errorf("a host that nothing speaks for: %q", got)
	}
	if n := reached.Load(); n != 2 {
		t.Errorf("the world was reached %d times, not 2", n)
	}

	var counted intercept.Counters
	h.ask(t, &counted, "flows", id, "--counters")
	if l := counted.Lookups; l.Queries < 2 || l.Denied == 0 || l.Known == 0 || l.Asked == 0 || l.Answered == 0 || counted.Requests == 0 {
		t.Errorf("what its interceptor has counted: %+v", counted)
	}

	// What it reached by a name is known by it, to what follows from history.
	h.remove(id)
	if _, runs := h.history(t, ": fetches-by-name; "); len(runs) != 1 || runs[0].Destinations["tcp/www.example:"+harness.WebPort] == 0 {
		t.Errorf("kept of its contacts: %+v", runs)
	}

	// One that may contact nobody but a name, by its own policy.
	id, err = h.linked(t, o, sh("sleep 1000", "--annotation", "forefend.dev/egress.default=closed", "--annotation", "forefend.dev/egress.allow=www.example:"+harness.WebPort))
	if err != nil {
		t.Fatal(err)
	}
	if r := h.exec(id, "sh", "-c", "echo nameserver 198.51.100.1 > /etc/resolv.conf"); r.Check() != nil {
		t.Fatal(r)
	}
	if got := h.fetch(id, "www.example", "x-forefend-data: public"); got != "direct" {
		t.Errorf("the one name that it may contact: %q", got)
	}
	if got := h.fetch(id, "www2.example", "x-forefend-data: public"); !strings.Contains(got, "bad address") {
		t.Errorf("a name that it may not contact: %q", got)
	}
	if got := h.fetch(id, "2001:db8::1", "x-forefend-data: public"); !strings.Contains(got, "403") {
		t.Errorf("an address that it may not contact: %q", got)
	}
	if err := h.Forefend("set", id, "network=off").Check(); err != nil {
		t.Fatal(err)
	}
	if got := h.fetch(id, "198.51.100.1", "x-forefend-data: public", "Host: www.example"); !strings.Contains(got, "403") {
		t.Errorf("without a network: %q", got)
	}
	if n := reached.Load(); n != 3 {
		t.Errorf("the world was reached %d times, not 3", n)
	}
}
