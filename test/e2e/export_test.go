package e2e

import (
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestExport learns a workload and has the stock runtime run it under what was learned.
func TestExport(t *testing.T) {
	h := newHost(t)
	const script = `: exported; eval "$STEP"`
	run := func(step string) container { return sh(script, "--env=STEP="+step) }
	export := func(form string) (text string, err error) {
		r := h.Forefend("profile", "export", "--format", form, "--namespace", h.Namespace, harness.Image("busybox"), "--", "sh", "-c", script)
		return r.Stdout, r.Check()
	}
	h.mustRun(t, sh("true")) // another workload, whose container starts the daemon
	if _, err := export("oci-seccomp"); err == nil || !strings.Contains(err.Error(), "nothing was learned of it yet") {
		t.Errorf("before the first run: %v", err)
	}
	const usual = "echo served; cat /etc/passwd > /tmp/x; sleep 0.1"
	for range 5 {
		h.mustRun(t, run(usual))
	}
	for _, form := range []string{"networkpolicy", "cilium", "resources"} {
		if text, err := export(form); err != nil || !strings.Contains(text, "From 5 runs with the same image+command") {
			t.Errorf("%s: %v\n%s", form, err, text)
		}
	}
	text, err := export("oci-seccomp")
	if err != nil || strings.Contains(text, "Not sealed") {
		t.Fatalf("%v\n%s", err, text)
	}
	profile := h.file(t, "learned.json", text)
	under := func(step string) container {
		return run(step).under(stock).with("--seccomp", "--seccomp-profile="+profile)
	}
	if got := h.mustRun(t, under(usual)); strings.TrimSpace(got) != "served" {
		t.Errorf("the stock runtime under what was learned: %q", got)
	}
	const unusual = "ln -s /etc/passwd /tmp/link && echo linked"
	if got := h.mustRun(t, run(unusual).under(stock)); strings.TrimSpace(got) != "linked" {
		t.Fatalf("without the profile: %q", got)
	}
	if r := h.run(under(unusual)); strings.Contains(r.Stdout, "linked") || r.Err != nil {
		t.Errorf("a call that no run made was let through: %+v", r)
	}
}
