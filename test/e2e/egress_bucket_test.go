package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// policy runs a command about the central daemon's rules.
func (c *centralDaemon) policy(args ...string) harness.Result {
	return c.h.Forefend(append([]string{"--config", c.config(), "policy"}, args...)...)
}

// push puts rules into its store, and returns what it says.
func (c *centralDaemon) push(text string) harness.Result {
	c.t.Helper()
	c.rules(text)
	return c.policy("push", filepath.Join(c.dir, "rules"), "--reason", "a test", "--json")
}

// changed is what a command that makes a version says.
func (c *centralDaemon) changed(r harness.Result) (v api.RuleChange) {
	c.t.Helper()
	if err := r.Check(); err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		c.t.Fatal(err)
	}
	return v
}

// TestEgressBucket: rules are pushed into the central daemon's store and hold on a node, before and after that daemon was killed; what is
// not in order changes nothing.
func TestEgressBucket(t *testing.T) {
	central := newCentral(t)
	central.source = "store"
	h := newHost(t, harness.WithConfig(central.node("node-1.test")+directUplink))
	central.h = h
	o := newOutside(t)
	web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	const public, internal = "x-forefend-data: public", "x-forefend-data: internal"
	allows := func(header string) bool { return h.fetch(id, "198.51.100.1", header) == "direct" }
	denies := func(header string) bool { return strings.Contains(h.fetch(id, "198.51.100.1", header), "403") }
	// A busy machine may need more than one try: a decision that comes too late is another answer than these two.
	passes := func(header string) bool { return within(30*time.Second, func() bool { return allows(header) }) }
	refused := func(header string) bool { return within(30*time.Second, func() bool { return denies(header) }) }

	central.start(central.ours)
	eventually(t, "a refusal by a store without rules", func() bool { return denies(public) })
	if made := central.changed(central.push(publicReads)); made.Number != 1 || made.Rules != 1 || made.Author == "" {
		t.Errorf("%+v", made)
	}
	if !passes(public) {
		t.Fatalf("in vain: what version 1 allows: %q\n%s\n%s", h.fetch(id, "198.51.100.1", public), h.Forefend("flows", id, "--counters").Stdout, h.Forefend("tunnel", "show", "uplink").Stdout)
	}
	if !refused(internal) {
		t.Error("what no rule allows passes")
	}

	// What is not in order, or fails a test of its own, changes nothing.
	if r := central.push(publicReads + "[[rule]]\nname = \"x\"\nwhen = 'nonsense'\ndeny = true\n"); r.Check() == nil || !strings.Contains(r.Stdout, `"line"`) {
		t.Errorf("rules that are not in order: %+v", r)
	}
	if r := central.push(publicReads + "[[test]]\nname = \"x\"\ncontext = { data = \"internal\" }\nexpect = { tunnel = { encryption = \"none\" } }\n"); r.Check() == nil {
		t.Errorf("rules that fail a test: %+v", r)
	}
	if !passes(public) || !refused(internal) {
		t.Error("what was refused is in force")
	}

	// Each change reaches the node.
	began := time.Now()
	central.changed(central.push(strings.ReplaceAll(publicReads, "public", "internal")))
	answered := time.Now()
	if !within(10*time.Second, func() bool { return denies(public) }) {
		t.Fatal("version 2 never reached the node")
	}
	t.Logf("a push refused a request on the node %s after it was in force there, %s after the command began", time.Since(answered), time.Since(began))
	if !passes(internal) {
		t.Error("what version 2 allows is refused")
	}
	var took, since []time.Duration
	allowed := internal
	for range 10 {
		next := map[string]string{public: internal, internal: public}[allowed]
		began := time.Now()
		central.changed(central.policy("rollback", "--json"))
		answered := time.Now()
		if !within(10*time.Second, func() bool { return denies(allowed) }) {
			t.Fatal("a rollback never reached the node")
		}
		took, since = append(took, time.Since(began)), append(since, time.Since(answered))
		if !passes(next) {
			t.Error("what was rolled back to is refused")
		}
		allowed = next
	}
	slices.Sort(took)
	slices.Sort(since)
	t.Logf("from the end of a rollback's command to a refused request on the node, which is included: median %s, longest %s; from its beginning: %s, %s; n = %d",
		since[len(since)/2], since[len(since)-1], took[len(took)/2], took[len(took)-1], len(took))

	// Killed, it has what was in force.
	central.kill()
	central.start(central.ours)
	var list api.RuleVersions
	eventually(t, "the central daemon back", func() bool {
		r := central.policy("versions", "--json")
		return r.Check() == nil && json.Unmarshal([]byte(r.Stdout), &list) == nil
	})
	if list.InForce != 12 || len(list.Versions) != 12 || list.Versions[0].From != 10 || list.Warning != "" {
		t.Errorf("%+v", list)
	}
	eventually(t, "the version of before", func() bool { return allows(allowed) })
	central.changed(central.policy("rollback", "1", "--json"))
	eventually(t, "a rollback after it was killed", func() bool { return allows(public) && denies(internal) })

	if book := central.audit(); !slices.ContainsFunc(book.Classes, func(c flow.Class) bool { return c.RuleVersion == "13" }) {
		t.Errorf("no class of decisions is of version 13: %+v", book)
	}
	pulled := filepath.Join(central.dir, "pulled")
	if err := central.policy("pull", pulled).Check(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(pulled, "site.toml")); err != nil || string(text) != publicReads {
		t.Errorf("%q, %v", text, err)
	}
	events := h.Forefend("--config", central.config(), "events", "--json", "--since", "0")
	for _, want := range []string{"pushed version 1 of the egress rules", "went back to version 1 of the egress rules, as version 13", `"author"`, `"reason":"a test"`} {
		if !strings.Contains(events.Stdout, want) {
			t.Errorf("no %q in its events: %.3000s", want, events.Stdout)
		}
	}
	decided := h.Forefend("--config", central.config(), "decide", "--context", `{"data": "public", "operation": "read"}`)
	if !strings.Contains(decided.Stdout, "site.toml:2 of version 13") {
		t.Errorf("decide does not name the version: %s%s", decided.Stdout, decided.Stderr)
	}
}
