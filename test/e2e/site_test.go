package e2e

import (
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestSite checks the switches of a site that change what containers get without asking.
func TestSite(t *testing.T) {
	h := newHost(t, harness.WithConfig(`
privileged = "govern"
readonly_root = true
[defaults]
pids = 60
masked_paths = ["/proc/version"]
`))
	t.Run("privileged is governed", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000", "--privileged", h.withProbe()))
		if r := h.exec(id, "/probe", "attack", "keyctl"); r.Stdout != "keyctl: EPERM\n" {
			t.Errorf("exec: %q %q", r.Stdout, r.Stderr)
		}
		d := h.explain(t, id)
		if _, ok := d.find("syscalls/keyctl"); !ok || strings.Contains(strings.Join(d.Notes, " "), "as asked (the site") {
			t.Errorf("not governed: %q", d.Notes)
		}
	})
	t.Run("defaults", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000"))
		d := h.explain(t, id)
		if f := d.want(t, "pids", "60", "default"); !strings.Contains(f.Source, "[defaults]") {
			t.Errorf("source %q", f.Source)
		}
		if n := h.limit(t, id, "pids"); n != 60 {
			t.Errorf("the kernel's limit of processes is %d", n)
		}
		if r := h.exec(id, "cat", "/proc/version"); r.Stdout != "" {
			t.Errorf("the masked path holds %q", r.Stdout)
		}
	})
	t.Run("read-only root", func(t *testing.T) {
		c := learner(h, "reader", "cat /etc/passwd > /dev/null")
		for range 5 {
			h.mustRun(t, c)
		}
		id := h.newID("readonly")
		r := h.run(learner(h, "reader", "touch /home/x && echo written; true").named(id))
		if r.Code != 0 || strings.Contains(r.Stdout, "written") || !strings.Contains(r.Stderr, "Read-only") {
			t.Errorf("after five runs that wrote nothing: %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		h.explain(t, id).want(t, "readonly_root", "on", "prediction")
	})
}
