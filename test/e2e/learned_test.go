package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestEgressLearned: in mode enforce a run reaches only those that earlier ones reached, once there are enough of them, and says so.
func TestEgressLearned(t *testing.T) {
	h := newHost(t, harness.WithConfig("unseen_egress = 0.5\n"))
	o := newOutside(t)
	reached := web(t, o.World, "direct")
	run := func(flags ...string) (string, decision) {
		t.Helper()
		id, err := h.linked(t, o, sh(": reaches-one; sleep 1000", flags...))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.fetch(id, "198.51.100.1"); got != "direct" {
			t.Fatalf("the one that it reaches: %q", got)
		}
		return id, h.explain(t, id)
	}
	const enforce = "--annotation=forefend.dev/mode=enforce"
	for n := range 3 {
		id, d := run()
		if f, ok := d.find("egress.default"); ok {
			t.Errorf("in mode adaptive: %+v", f)
		}
		h.remove(id)
		if n > 0 {
			continue
		}
		id, d = run(enforce)
		if !slices.ContainsFunc(d.Notes, func(note string) bool {
			return strings.Contains(note, "egress stays open and is watched: destinations reached in 1 run: 1")
		}) {
			t.Errorf("thin evidence: %q", d.Notes)
		}
		h.remove(id)
	}
	o.names(t, "--host-record=www.example,198.51.100.1")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, conf, "nameserver 192.0.2.1\n")
	id, d := run(enforce, "--mount=type=bind,src="+conf+",dst=/etc/resolv.conf,options=rbind:ro")
	if f := d.want(t, "egress.default", "closed", "prediction"); !strings.Contains(f.Reason, "destinations reached in 4 runs: 1") {
		t.Errorf("why: %s", f.Reason)
	}
	if f, ok := d.find("egress/198.51.100.1"); !ok || f.Text != "allowed" || f.Author != "prediction" {
		t.Errorf("the one that it reaches: %+v", f)
	}
	if f, ok := d.find("egress/192.0.2.1"); !ok || f.Text != "allowed" || f.Author != "prediction" || !strings.Contains(f.Reason, "resolv.conf") {
		t.Errorf("its name server, of which no history tells where sockets are not connected: %+v", f)
	}
	eventually(t, "a page by its name", func() bool { return h.fetch(id, "www.example") == "direct" })
	before := reached.Load()
	if got := h.fetch(id, "2001:db8::1"); got == "direct" || reached.Load() != before {
		t.Errorf("one that it never reached: %q", got)
	}
	eventually(t, "an event that it was refused", func() bool { return h.saw(t, id, "denied", "2001:db8::1") })
}
